// codebook_lookup by tensor cores, for k = 1: the same bits as codebook.cuh's kernel, sooner. With
// SAGITTAL_EMULATE defined, a header that gives threadIdx, __syncthreads and so on a meaning on the
// CPU must be included before this file.
//
// Tensor cores only choose candidates. Their score of row n and code j, a product of rounded
// factors, is off the float32 score of the ordinary kernel by at most
//   margin = product |z_n| |e_j| + 2^-20 (|offset_j| + |bias_nj|)     (see margins_of)
// so a code may be best only if its score plus its margin reaches the limit, the highest score less
// its margin. `find_candidates` keeps the codes that reach the limit so far, kKept a row at most;
// `rescore` sums those that reach the final one in float32, in the ordinary kernel's order, and
// takes the best, the lowest index among equals. Rows with more than kKept, or whose scores might
// overflow, are listed for the ordinary kernel.
//
// A block owns kTile rows, which stay in shared memory if they fit there, and walks over the codes
// kTile at a time, kWords 32-bit words of each line a stage, double-buffered; a warp sums 32 x 64
// scores. Per block and stage: 2 kTile^2 kDepthOf Flop on kTile lines of 64 bytes from the
// second-level cache (64 Flop a byte in float32, 128 in halves; half of that where the rows do not
// fit), and 6 KB that each of 8 warps reads from shared memory. csrc/README.md has what follows for
// an H100.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../common/device.cuh"
#include "../common/mma.cuh"
#include "codebook.cuh"

namespace sagittal {
namespace codebook {

constexpr int kTile = 128;            // rows and codes of a block
constexpr int kWords = 16;            // of a line and stage
constexpr int kLine = kWords + 4;     // in shared memory: no bank conflicts, still aligned
constexpr int kKept = 8;              // candidates of a row and warp, two of which share a row
constexpr int kSlot = kTile * kLine;  // words of a stage in shared memory
constexpr float kLarge = 0x1p100f;    // products below can't overflow, nor what is added to them
constexpr float kSlack = 0x1p-20f;    // of what is added to a product

template <class S>
constexpr Numbers32 kNumbers = std::is_same_v<S, float>  ? Numbers32::kTf32
                               : std::is_same_v<S, Half> ? Numbers32::kHalf
                                                         : Numbers32::kBFloat16;

struct Margins {
  float product;  // of |z| |e|
  float tiny;     // added to |z| and to |e|
};

// With u = 2^-23 and D dimensions, in units of |z| |e|, by Cauchy and Schwarz:
// - two TF32 factors are off by 2^-11 each; products of halves are exact;
// - the tensor cores' sum: 2 D u. Each product may be cut, by u of the largest one or of the sum so
//   far, and so may the sums of 4, 8 or 16. (PTX ISA promises "at least single precision"; how sums
//   are cut is measured, see mma.cuh.)
// - the float32 sum: D u / 2; what is done to either sum afterwards: less than 8 u;
// - |z| and |e| themselves: less than D u of them.
// `tiny` covers numbers below 2^-126, which may count as zero, and squares that underflow when |z|
// is taken: 2^-126 (sum |z_d| + sum |e_d| + 2 D).
template <class S>
Margins margins_of(int64_t width) {
  const double padded = static_cast<double>(width) + 64, unit = 0x1p-23;
  const double factors = std::is_same_v<S, float> ? 0x1p-10 + 0x1p-20 : 0.0;
  const double product = (factors + 3 * padded * unit) * (1 + 2 * padded * unit);
  return {static_cast<float>(product * 1.0001), static_cast<float>(0x1p-50 * std::sqrt(padded))};
}

template <class S>
constexpr int kDepthOf = kWords * 4 / sizeof(S);  // dimensions of a stage

// Stages of the block's rows that stay in shared memory: all of them where `limit` bytes a block
// allow it, otherwise two, by turns.
template <class S>
int row_slots(int64_t width, int64_t limit) {
  const int64_t depths = width > 0 ? (width + kDepthOf<S> - 1) / kDepthOf<S> : 1;
  const int64_t room = (limit - 4096) / (4 * kSlot) - 2;  // less the kernel's other arrays, codes
  return static_cast<int>(depths <= room ? depths : 2);
}
inline int shared_bytes(int slots) { return (slots + 2) * kSlot * 4; }

// What a code adds to a product, less and plus its share of the margin.
struct alignas(8) Bounds {
  float low, high;
};

// What of the codes does not depend on the row; up to the next multiple of kTile.
struct Codes {
  Bounds* bounds;  // -inf for codes that do not exist
  float* lengths;  // |e|
  float* longest;  // the largest |e| of each kTile codes
};

// One block for each kTile codes, one warp a code.
template <class S>
__global__ void __launch_bounds__(kThreads)
    measure_codes(const S* codebook, const float* offset, int64_t size, int64_t width, float tiny,
                  Codes out) {
  constexpr int kWarps = kThreads / 32;
  __shared__ float largest[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float top = 0;
  for (int i = warp; i < kTile; i += kWarps) {
    const int64_t code = static_cast<int64_t>(blockIdx.x) * kTile + i;
    float square = 0;
    for (int64_t d = lane; code < size && d < width; d += 32) {
      const float x = widen<float>(codebook[code * width + d]);
      square += x * x;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(0xffffffffu, square, step);
    const float length = sqrtf(square) + tiny;
    top = fmaxf(top, length);
    if (lane > 0) continue;
    const float add = code < size ? offset[code] : minus_infinity<float>();
    const float slack = finite(add) ? kSlack * fabsf(add) : 0.0f;
    out.bounds[code] = {add - slack, add + slack};
    out.lengths[code] = length;
  }
  if (lane == 0) largest[warp] = top;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int i = 1; i < kWarps; ++i) top = fmaxf(top, largest[i]);
  out.longest[blockIdx.x] = top;
}

// A code that may be the best of a row; `high` is its score plus its margin.
struct Candidate {
  float high;
  int code;
};

struct Candidates {
  Candidate* kept;   // (rows, 2, kKept), in no order
  unsigned* counts;  // (rows, 2): more than kKept if some are missing
  float* limits;     // (rows)
};

// 16 bytes of numbers as words for the tensor cores.
template <class S>
__device__ __forceinline__ void to_words(const Pack<S>& pack, uint32_t* words) {
  struct alignas(16) Words {
    uint32_t value[4];
  };
  Words out;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if constexpr (std::is_same_v<S, float>)
      out.value[w] = to_tf32(pack.value[w]);
    else
      out.value[w] = pack.value[2 * w].bits | uint32_t(pack.value[2 * w + 1].bits) << 16;
  }
  *reinterpret_cast<Words*>(words) = out;
}

template <class S, bool kRowBias>
__global__ void __launch_bounds__(kThreads)
    find_candidates(Lookup<S> p, Margins margins, int slots, Codes codes, const float* row_bias,
                    Candidates out, Faults* faults) {
  constexpr int kPack = Pack<S>::kCount, kPacks = kWords / 4;  // packs of one line and stage
  constexpr int kLoads = kTile * kPacks / kThreads;            // packs a thread loads
  __shared__ float length[kTile];                              // |z|
  __shared__ float shared_limit[2][kTile];                     // of either half of the codes
  __shared__ unsigned count[2][kTile];

  const int thread = threadIdx.x, lane = thread % 32, g = lane / 4, t = lane % 4;
  const int first_line = thread / 32 % 4 * 32, half = thread / 128;  // of the warp
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile;
  const int depths = p.width > 0 ? static_cast<int>((p.width - 1) / kDepthOf<S>) + 1 : 1;
  const bool resident = slots >= depths;
  uint32_t* const row_tile = reinterpret_cast<uint32_t*>(dynamic_shared());
  uint32_t* const code_tile = row_tile + slots * kSlot;

  struct Stage {
    int64_t first_code;
    int depth, turn;
  };
  auto after = [&](const Stage& stage) -> Stage {
    const bool last = stage.depth + 1 == depths;
    return {last ? stage.first_code + kTile : stage.first_code, last ? 0 : stage.depth + 1,
            1 - stage.turn};
  };
  auto rows_at = [&](const Stage& stage) {
    return row_tile + (resident ? stage.depth : stage.turn) * kSlot;
  };
  auto needs_rows = [&](const Stage& stage) { return !resident || stage.first_code == 0; };

  Pack<S> next_rows[kLoads], next_codes[kLoads];
  float square[kLoads] = {};
  auto fetch = [&](const Stage& stage) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int item = thread + i * kThreads, line = item / kPacks;
      const int64_t begin = (int64_t(stage.depth) * kPacks + item % kPacks) * kPack;
      const int64_t row = first_row + line, code = stage.first_code + line;
      if (needs_rows(stage))
        next_rows[i] = load(p.z + row * p.width, begin, row < p.rows ? p.width : 0, p.aligned);
      next_codes[i] =
          load(p.codebook + code * p.width, begin, code < p.size ? p.width : 0, p.aligned);
    }
  };
  auto store = [&](const Stage& stage) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int item = thread + i * kThreads, line = item / kPacks;
      const int at = line * kLine + item % kPacks * 4;
      to_words(next_codes[i], code_tile + stage.turn * kSlot + at);
      if (needs_rows(stage)) to_words(next_rows[i], rows_at(stage) + at);
      if (stage.first_code > 0) continue;  // the first walk over the rows takes their lengths
      bool good = true;
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const float x = widen<float>(next_rows[i].value[j]);
        good = good && finite(x);
        square[i] += x * x;
      }
      if (!good) faults->rows = 1;
      if (stage.depth + 1 < depths) continue;
      square[i] += __shfl_xor_sync(0xffffffffu, square[i], 1);  // kPacks threads have one line
      square[i] += __shfl_xor_sync(0xffffffffu, square[i], 2);
      if (item % kPacks == 0) length[line] = sqrtf(square[i]) + margins.tiny;
    }
  };

  float sum[2][8][4];  // rows 16 m + .., codes 8 n + .., registers
  float limit[2][2];   // of rows 16 m + 8 h + g
  float peak[2][2];    // the most that a candidate reached so far
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t row = first_row + first_line + 16 * m + 8 * h + g;
      peak[m][h] = minus_infinity<float>();
      limit[m][h] = row < p.rows ? minus_infinity<float>() : -minus_infinity<float>();
    }
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int r = 0; r < 4; ++r) sum[m][n][r] = 0;
  }
  if (thread < kTile) {
    count[0][thread] = count[1][thread] = 0;
    shared_limit[0][thread] = shared_limit[1][thread] = minus_infinity<float>();
  }

  // Of the thread's two codes of eight.
  struct alignas(8) Two {
    float value[2];
  };
  struct Pair {
    Pack<float> bounds;
    Two length;
  };
  auto pair_at = [&](int64_t code) -> Pair {
    return {*reinterpret_cast<const Pack<float>*>(codes.bounds + code),
            *reinterpret_cast<const Two*>(codes.lengths + code)};
  };
  // The score of accumulator (m, n, h, c), less and plus its margin, `scale` for |e| = 1.
  auto bounded = [&](int64_t first_code, const Pair& pair, float scale, int m, int n, int h,
                     int c) {
    const float product = sum[m][n][2 * h + c], margin = scale * pair.length.value[c];
    Bounds found = {product + pair.bounds.value[2 * c] - margin,
                    product + pair.bounds.value[2 * c + 1] + margin};
    if constexpr (kRowBias) {
      const int64_t row = first_row + first_line + 16 * m + 8 * h + g;
      const int64_t code = first_code + 8 * n + 2 * t + c;
      if (row >= p.rows || code >= p.size) return found;
      const float bias = row_bias[row * p.size + code];
      if (!(bias < -minus_infinity<float>())) faults->bias = 1;
      const float slack = finite(bias) ? kSlack * fabsf(bias) : 0.0f;
      found = {found.low + (bias - slack), found.high + (bias + slack)};
    }
    return found;
  };
  // Keeps what reaches the limit of the codes from `first_code` on, the warp's half of a tile.
  auto judge = [&](int64_t first_code, float longest) {
    float low[2][2], high[2][2], scale[2][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = i / 2, h = i % 2;
      low[m][h] = high[m][h] = minus_infinity<float>();
      scale[m][h] = margins.product * length[first_line + 16 * m + 8 * h + g];
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const Pair pair = pair_at(first_code + 8 * n + 2 * t);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int m = i / 4, h = i / 2 % 2;
        const Bounds found = bounded(first_code, pair, scale[m][h], m, n, h, i % 2);
        low[m][h] = fmaxf(low[m][h], found.low);
        high[m][h] = fmaxf(high[m][h], found.high);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = i / 2, h = i % 2, line = first_line + 16 * m + 8 * h + g;
      const int64_t row = first_row + line;
      float top = low[m][h], reach = high[m][h];
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {  // 4 threads have one row
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        reach = fmaxf(reach, __shfl_xor_sync(0xffffffffu, reach, step));
      }
      const bool wild = !(length[line] * longest < kLarge) || top == -minus_infinity<float>();
      // What the other warp of this row found, now or a little before: a limit all the same.
      const float other = *static_cast<volatile float*>(&shared_limit[1 - half][line]);
      limit[m][h] = wild ? -minus_infinity<float>() : fmaxf(fmaxf(limit[m][h], other), top);
      const bool outdated = limit[m][h] > peak[m][h];  // all candidates so far
      if (t == 0) {
        *static_cast<volatile float*>(&shared_limit[half][line]) = limit[m][h];
        if (wild)  // might overflow
          count[half][line] = kKept + 1;
        else if (outdated && limit[m][h] < -minus_infinity<float>())
          count[half][line] = 0;
      }
      __syncwarp();
      // Above -inf: a row without any candidate gets code 0 and -inf, as it should.
      const float least = fmaxf(limit[m][h], -3.402823466e38f);
      if (outdated) peak[m][h] = minus_infinity<float>();
      if (reach >= least) peak[m][h] = fmaxf(peak[m][h], reach);
      if (!(high[m][h] >= least) || row >= p.rows) continue;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const Pair pair = pair_at(first_code + 8 * n + 2 * t);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const Bounds found = bounded(first_code, pair, scale[m][h], m, n, h, c);
          if (!(found.high >= least)) continue;
          const unsigned slot = atomicAdd(&count[half][line], 1u);
          const int code = static_cast<int>(first_code) + 8 * n + 2 * t + c;
          if (slot < kKept) out.kept[(2 * row + half) * kKept + slot] = {found.high, code};
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int r = 0; r < 4; ++r) sum[m][n][r] = 0;
  };

  Stage stage = {0, 0, 0};
  fetch(stage);
  store(stage);
  __syncthreads();
  while (stage.first_code < p.size) {
    const Stage next = after(stage);
    const bool more = next.first_code < p.size;
    if (more) fetch(next);  // in flight during the products
    const uint32_t* const rows = rows_at(stage) + (first_line + g) * kLine + t;
    const uint32_t* const columns = code_tile + stage.turn * kSlot + (half * 64 + g) * kLine + t;
#pragma unroll
    for (int word = 0; word < kWords; word += 8) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int r = 0; r < 4; ++r)
          a[m][r] = rows[(16 * m + 8 * (r % 2)) * kLine + word + 4 * (r / 2)];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const uint32_t b[2] = {columns[8 * n * kLine + word], columns[8 * n * kLine + word + 4]};
#pragma unroll
        for (int m = 0; m < 2; ++m) mma_tile<kNumbers<S>>(sum[m][n], a[m], b);
      }
    }
    if (more) store(next);  // another place: nobody reads it now
    if (next.depth == 0)
      judge(stage.first_code + half * 64, codes.longest[stage.first_code / kTile]);
    stage = next;
    __syncthreads();
  }
  if (thread >= kTile || first_row + thread >= p.rows) return;
  out.counts[2 * (first_row + thread)] = count[0][thread];
  out.counts[2 * (first_row + thread) + 1] = count[1][thread];
  out.limits[first_row + thread] = fmaxf(shared_limit[0][thread], shared_limit[1][thread]);
}

// The ordinary kernel's score of each candidate, and the best; one thread a row. Rows whose
// candidates are incomplete go to `listed`, in no order.
template <class S>
__global__ void __launch_bounds__(kThreads)
    rescore(Lookup<S> p, const float* offset, const float* row_bias, Candidates found,
            float* scores, int64_t* indices, int64_t* listed, unsigned long long* listed_count) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= p.rows) return;
  const unsigned counts[2] = {found.counts[2 * row], found.counts[2 * row + 1]};
  if (counts[0] > kKept || counts[1] > kKept) {
    listed[atomicAdd(listed_count, 1ull)] = row;
    return;
  }
  float best = minus_infinity<float>();
  int where = kNone;
  for (unsigned i = 0; i < counts[0] + counts[1]; ++i) {
    const unsigned slot = i < counts[0] ? i : kKept + i - counts[0];
    const Candidate candidate = found.kept[2 * row * kKept + slot];
    if (candidate.high < found.limits[row]) continue;
    const int64_t code = candidate.code;
    const S *a = p.z + row * p.width, *b = p.codebook + code * p.width;
    float score = 0;
    for (int64_t begin = 0; begin < p.width; begin += kDepth) {  // and zeros, as the other does
#pragma unroll
      for (int d = 0; d < kDepth; d += Pack<S>::kCount) {
        const Pack<S> x = load(a, begin + d, p.width, p.aligned);
        const Pack<S> y = load(b, begin + d, p.width, p.aligned);
#pragma unroll
        for (int j = 0; j < Pack<S>::kCount; ++j)
          score = multiply_add(widen<float>(x.value[j]), widen<float>(y.value[j]), score);
      }
    }
    score += offset[code];
    if (row_bias != nullptr) score += row_bias[row * p.size + code];
    if (score > best || (score == best && candidate.code < where)) {
      best = score;
      where = candidate.code;
    }
  }
  scores[row] = best;
  indices[row] = where == kNone ? 0 : where;
}

}  // namespace codebook
}  // namespace sagittal

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
#include "candidates.cuh"

namespace sagittal {
namespace codebook {

constexpr int kWords = 16;            // of a line and stage
constexpr int kLine = kWords + 4;     // in shared memory: no bank conflicts, still aligned
constexpr int kSlot = kTile * kLine;  // words of a stage in shared memory

template <class S>
constexpr Numbers32 kNumbers = std::is_same_v<S, float>  ? Numbers32::kTf32
                               : std::is_same_v<S, Half> ? Numbers32::kHalf
                                                         : Numbers32::kBFloat16;

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
  __shared__ float limits[2][kTile];                           // of either half of the codes
  __shared__ unsigned counts[2][kTile];

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

  if (thread < kTile) {
    counts[0][thread] = counts[1][thread] = 0;
    limits[0][thread] = limits[1][thread] = minus_infinity<float>();
  }
  Judge<S, kRowBias> mine = {p,      codes,     row_bias,  out,       faults,     margins.product,
                             length, limits[0], counts[0], first_row, first_line, half,
                             g,      t};
  mine.begin();
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
        for (int m = 0; m < 2; ++m) mma_tile<kNumbers<S>>(mine.sum[m][n], a[m], b);
      }
    }
    if (more) store(next);  // another place: nobody reads it now
    if (next.depth == 0)
      mine.judge(stage.first_code + half * 64, codes.longest[stage.first_code / kTile]);
    stage = next;
    __syncthreads();
  }
  if (thread >= kTile || first_row + thread >= p.rows) return;
  out.counts[2 * (first_row + thread)] = counts[0][thread];
  out.counts[2 * (first_row + thread) + 1] = counts[1][thread];
  out.limits[first_row + thread] = fmaxf(limits[0][thread], limits[1][thread]);
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

// Which codes may be a row's best, of scores that are off by a known margin: see tensor.cuh. With
// SAGITTAL_EMULATE defined, a header that gives threadIdx, __syncthreads and so on a meaning on the
// CPU must be included before this file.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "codebook.cuh"

namespace sagittal {
namespace codebook {

constexpr int kTile = 128;          // rows and codes of a block
constexpr int kKept = 8;            // candidates of a row and warp, two of which share a row
constexpr float kLarge = 0x1p100f;  // products below can't overflow, nor what is added to them
constexpr float kSlack = 0x1p-20f;  // of what is added to a product

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

// What a thread of a warp knows of its 32 rows (16 m + 8 h + g of the warp) and 64 codes (8 n + 2 t
// + c): the accumulators of the products, c of mma_tile, and the candidates among them.
template <class S, bool kRowBias>
struct Judge {
  const Lookup<S>& p;
  const Codes& codes;
  const float* row_bias;
  const Candidates& out;
  Faults* faults;
  float product_margin;
  const float* length;  // shared, of the block's rows
  float* limits;        // shared, (2, kTile): of either half of the codes
  unsigned* counts;     // shared, (2, kTile)
  int64_t first_row;    // of the block
  int first_line, half, g, t;
  float sum[2][8][4];
  float limit[2][2];
  float peak[2][2];  // the most that a candidate reached so far

  // Of the thread's two codes of eight.
  struct alignas(8) Two {
    float value[2];
  };
  struct Pair {
    Pack<float> bounds;
    Two length;
  };

  __device__ __forceinline__ int line_at(int m, int h) const {
    return first_line + 16 * m + 8 * h + g;
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < 64; ++i) sum[i / 32][i / 4 % 8][i % 4] = 0;
  }

  __device__ __forceinline__ void begin() {
    clear();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool exists = first_row + line_at(i / 2, i % 2) < p.rows;
      limit[i / 2][i % 2] = exists ? minus_infinity<float>() : -minus_infinity<float>();
      peak[i / 2][i % 2] = minus_infinity<float>();
    }
  }

  __device__ __forceinline__ Pair pair_at(int64_t code) const {
    return {*reinterpret_cast<const Pack<float>*>(codes.bounds + code),
            *reinterpret_cast<const Two*>(codes.lengths + code)};
  }

  // The score of an accumulator, less and plus its margin, which is `scale` for |e| = 1.
  __device__ __forceinline__ Bounds bounded(int64_t code, const Pair& pair, float scale, int m,
                                            int n, int h, int c) const {
    const float product = sum[m][n][2 * h + c], margin = scale * pair.length.value[c];
    const Bounds found = {product + pair.bounds.value[2 * c] - margin,
                          product + pair.bounds.value[2 * c + 1] + margin};
    if constexpr (kRowBias) {
      const int64_t row = first_row + line_at(m, h);
      if (row >= p.rows || code + c >= p.size) return found;
      const float bias = row_bias[row * p.size + code + c];
      if (!(bias < -minus_infinity<float>())) faults->bias = 1;
      const float slack = finite(bias) ? kSlack * fabsf(bias) : 0.0f;
      return {found.low + (bias - slack), found.high + (bias + slack)};
    }
    return found;
  }

  // Keeps what reaches the limit of the warp's codes, from `first_code` on; `longest`: of them.
  __device__ __forceinline__ void judge(int64_t first_code, float longest) {
    float low[2][2], high[2][2], scale[2][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i / 2][i % 2] = high[i / 2][i % 2] = minus_infinity<float>();
      scale[i / 2][i % 2] = product_margin * length[line_at(i / 2, i % 2)];
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int64_t code = first_code + 8 * n + 2 * t;
      const Pair pair = pair_at(code);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int m = i / 4, h = i / 2 % 2;
        const Bounds found = bounded(code, pair, scale[m][h], m, n, h, i % 2);
        low[m][h] = fmaxf(low[m][h], found.low);
        high[m][h] = fmaxf(high[m][h], found.high);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int m = i / 2, h = i % 2;
      const float least = raise_limit(m, h, low[m][h], high[m][h], longest);
      if (high[m][h] >= least && first_row + line_at(m, h) < p.rows)
        keep(first_code, scale[m][h], least, m, h);
    }
    clear();
  }

  // The limit of a row after codes between `low` and `high` at best; what candidates must reach.
  __device__ __forceinline__ float raise_limit(int m, int h, float low, float high, float longest) {
    const int line = line_at(m, h);
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {  // 4 threads have one row
      low = fmaxf(low, __shfl_xor_sync(0xffffffffu, low, step));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, step));
    }
    const bool wild = !(length[line] * longest < kLarge) || low == -minus_infinity<float>();
    // What the other warp of this row found, now or a little before: a limit all the same.
    const float other = *static_cast<volatile float*>(limits + (1 - half) * kTile + line);
    float& now = limit[m][h];
    now = wild ? -minus_infinity<float>() : fmaxf(fmaxf(now, other), low);
    const bool outdated = now > peak[m][h];  // all candidates so far
    if (t == 0) {
      *static_cast<volatile float*>(limits + half * kTile + line) = now;
      if (wild)  // might overflow
        counts[half * kTile + line] = kKept + 1;
      else if (outdated && now < -minus_infinity<float>())
        counts[half * kTile + line] = 0;
    }
    __syncwarp();
    // Above -inf: a row without any candidate gets code 0 and -inf, as it should.
    const float least = fmaxf(now, -3.402823466e38f);
    if (outdated) peak[m][h] = minus_infinity<float>();
    if (high >= least) peak[m][h] = fmaxf(peak[m][h], high);
    return least;
  }

  // Writes down the codes of a row that reach `least`.
  __device__ __forceinline__ void keep(int64_t first_code, float scale, float least, int m, int h) {
    const int line = line_at(m, h);
    Candidate* const kept = out.kept + (2 * (first_row + line) + half) * kKept;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int64_t code = first_code + 8 * n + 2 * t;
      const Pair pair = pair_at(code);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const Bounds found = bounded(code, pair, scale, m, n, h, c);
        if (!(found.high >= least)) continue;
        const unsigned slot = atomicAdd(counts + half * kTile + line, 1u);
        if (slot < kKept) kept[slot] = {found.high, static_cast<int>(code) + c};
      }
    }
  }
};

}  // namespace codebook
}  // namespace sagittal

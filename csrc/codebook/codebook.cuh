// codebook_lookup and codebook_sums on CUDA: kernels on raw pointers. With SAGITTAL_EMULATE
// defined, a header that gives threadIdx, __syncthreads and so on a meaning on the CPU must be
// included before this file.
//
// The product is a register-tiled one: a block owns kTile rows, walks over all codes kTile at a
// time and over the dimensions kDepth at a time, two stages of which lie in shared memory. A thread
// sums kMicro x kMicro scores; what it keeps of them is the best of each row. No score reaches
// memory.
//
// Per block and stage: 2 kTile^2 kDepth Flop on 2 kTile kDepth numbers from the second-level cache,
// kTile / sizeof(S) Flop a byte: 32 in float32. The H100's 67 TFlop/s (float32, no tensor cores)
// ask for 2.1 TB/s of that, below what its second-level cache delivers: arithmetic bounds the
// kernel.
#pragma once

#include <cstdint>

#ifndef SAGITTAL_EMULATE
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "../common/pack.cuh"

namespace sagittal {
namespace codebook {

constexpr int kThreads = 256;  // 16 x 16
constexpr int kDepth = 16;
constexpr int kNone = 0x7fffffff;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
__device__ __forceinline__ T widen(float x) {
  return x;
}
template <class T>
__device__ __forceinline__ T widen(double x) {
  return static_cast<T>(x);
}
#ifdef SAGITTAL_EMULATE
template <class T>
T widen(Half x) {
  return static_cast<float>(__builtin_bit_cast(_Float16, x.bits));
}
template <class T>
T widen(BFloat16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}
#else
template <class T>
__device__ __forceinline__ T widen(Half x) {
  return __half2float(__ushort_as_half(x.bits));
}
template <class T>
__device__ __forceinline__ T widen(BFloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}
#endif

template <class T>
__device__ __forceinline__ bool finite(T x) {
  return x - x == T(0);
}

template <class T>
__device__ __forceinline__ T minus_infinity() {
  return -T(1) / T(0);
}

// a b + c, rounded alike wherever a score is summed.
template <class T>
__device__ __forceinline__ T multiply_add(T a, T b, T c) {
#ifdef SAGITTAL_EMULATE
  return a * b + c;
#else
  return fma(a, b, c);
#endif
}

// What went wrong anywhere; every writer writes 1.
struct Faults {
  int rows, codes, bias;
};

// offset[j] = -|e_j|^2 / 2 + bias[j]; one warp a code.
template <class T, class S>
__global__ void __launch_bounds__(kThreads) offsets(const S* codebook, const T* bias, int64_t size,
                                                    int64_t width, T* offset, Faults* faults) {
  const int64_t code = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (code >= size) return;
  const int lane = threadIdx.x % 32;
  T norm = 0;
  bool good = true;
  for (int64_t d = lane; d < width; d += 32) {
    const T x = widen<T>(codebook[code * width + d]);
    good = good && finite(x);
    norm += x * x;
  }
  if (!good) faults->codes = 1;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) norm += __shfl_xor_sync(0xffffffffu, norm, step);
  if (lane == 0) {
    const T add = bias != nullptr ? bias[code] : T(0);
    if (!(add < -minus_infinity<T>())) faults->bias = 1;
    offset[code] = T(-0.5) * norm + add;
  }
}

template <class S>
struct Lookup {
  const S* z;         // (rows, width)
  const S* codebook;  // (size, width)
  int64_t rows, size, width;
  bool aligned;                     // rows of both begin at multiples of 16 bytes
  const int64_t* listed = nullptr;  // (*listed_count): the only rows to look at, for kListed
  const unsigned long long* listed_count = nullptr;
};

// The best code of each row that comes after the one found by the pass before: lower score, or
// equal score and higher index. k passes give the k best. With kListed, only of rows in a list
// whose length the host does not know: blocks beyond its end do nothing.
template <class T, class S, int kMicro, bool kListed = false>
__global__ void __launch_bounds__(kThreads)
    lookup(Lookup<S> p, const T* offset, const T* row_bias, int64_t k, int64_t pass, T* scores,
           int64_t* indices, Faults* faults) {
  constexpr int kTile = 16 * kMicro;
  constexpr int kVector = Pack<T>::kCount;           // numbers of one shared-memory load
  constexpr int kGroups = kMicro / kVector;          // of kVector rows or codes a thread
  constexpr int kPacks = kDepth / Pack<S>::kCount;   // packs of one row and stage
  constexpr int kLoads = kTile * kPacks / kThreads;  // packs a thread loads
  constexpr int kStride = kTile + kVector;           // fewer bank conflicts, still aligned
  static_assert(kTile * kPacks % kThreads == 0 && kMicro % kVector == 0, "tile does not divide");
  alignas(16) __shared__ T row_tile[2][kDepth * kStride];
  alignas(16) __shared__ T code_tile[2][kDepth * kStride];

  const int thread = threadIdx.x, tx = thread % 16, ty = thread / 16;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t depths = p.width > 0 ? (p.width + kDepth - 1) / kDepth : 1;
  const int64_t stages = (p.size + kTile - 1) / kTile * depths;
  const int64_t listed = kListed ? static_cast<int64_t>(*p.listed_count) : 0;
  if (kListed && first_row >= listed) return;
  auto row_at = [&](int line) {
    if (!kListed) return first_row + line;
    return first_row + line < listed ? p.listed[first_row + line] : p.rows;
  };

  Pack<S> next_rows[kLoads], next_codes[kLoads];
  auto fetch = [&](int64_t stage) {
    const int64_t first_code = stage / depths * kTile, depth = stage % depths * kDepth;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int item = thread + i * kThreads, line = item / kPacks;
      const int64_t begin = depth + item % kPacks * Pack<S>::kCount;
      const int64_t row = row_at(line), code = first_code + line;
      next_rows[i] = load(p.z + row * p.width, begin, row < p.rows ? p.width : 0, p.aligned);
      next_codes[i] =
          load(p.codebook + code * p.width, begin, code < p.size ? p.width : 0, p.aligned);
    }
  };
  auto store = [&](int64_t stage) {
    T* const rows = row_tile[stage % 2];
    T* const codes = code_tile[stage % 2];
    bool good = true;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int item = thread + i * kThreads, line = item / kPacks;
#pragma unroll
      for (int j = 0; j < Pack<S>::kCount; ++j) {
        const int at = (item % kPacks * Pack<S>::kCount + j) * kStride + line;
        const T x = widen<T>(next_rows[i].value[j]);
        good = good && finite(x);
        rows[at] = x;
        codes[at] = widen<T>(next_codes[i].value[j]);
      }
    }
    if (!good) faults->rows = 1;
  };
  // Element `i` of a thread's rows (t = ty) or codes (t = tx) within the tile.
  auto place = [](int t, int i) { return i / kVector * 16 * kVector + t * kVector + i % kVector; };

  T best[kMicro], sum[kMicro][kMicro];
  int where[kMicro];
#pragma unroll
  for (int r = 0; r < kMicro; ++r) {
    best[r] = minus_infinity<T>();
    where[r] = kNone;
#pragma unroll
    for (int c = 0; c < kMicro; ++c) sum[r][c] = 0;
  }

  fetch(0);
  store(0);
  __syncthreads();
  for (int64_t stage = 0; stage < stages; ++stage) {
    if (stage + 1 < stages) fetch(stage + 1);  // in flight during the products
    const T* const rows = row_tile[stage % 2];
    const T* const codes = code_tile[stage % 2];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      Pack<T> a[kGroups], b[kGroups];
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        a[g] = *reinterpret_cast<const Pack<T>*>(rows + d * kStride + place(ty, g * kVector));
        b[g] = *reinterpret_cast<const Pack<T>*>(codes + d * kStride + place(tx, g * kVector));
      }
#pragma unroll
      for (int r = 0; r < kMicro; ++r)
#pragma unroll
        for (int c = 0; c < kMicro; ++c)
          sum[r][c] = multiply_add(a[r / kVector].value[r % kVector],
                                   b[c / kVector].value[c % kVector], sum[r][c]);
    }
    if (stage + 1 < stages) store(stage + 1);  // the other buffer: nobody reads it now
    if (stage % depths == depths - 1) {
      const int64_t first_code = stage / depths * kTile;
#pragma unroll
      for (int r = 0; r < kMicro; ++r) {
        const int64_t row = row_at(place(ty, r));
        const bool filtered = pass > 0 && row < p.rows;
        const T last = filtered ? scores[row * k + pass - 1] : T(0);
        const int64_t last_code = filtered ? indices[row * k + pass - 1] : 0;
#pragma unroll
        for (int c = 0; c < kMicro; ++c) {
          const int64_t code = first_code + place(tx, c);
          T score = sum[r][c];
          sum[r][c] = 0;
          if (code >= p.size || row >= p.rows) continue;
          score += offset[code];
          if (row_bias != nullptr) {
            const T add = row_bias[row * p.size + code];
            if (!(add < -minus_infinity<T>())) faults->bias = 1;
            score += add;
          }
          const bool after = !filtered || score < last || (score == last && code > last_code);
          if (after && (score > best[r] || (score == best[r] && code < where[r]))) {
            best[r] = score;
            where[r] = static_cast<int>(code);
          }
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kMicro; ++r) {
#pragma unroll
    for (int step = 8; step > 0; step /= 2) {  // the 16 threads that share the row
      const T other = __shfl_xor_sync(0xffffffffu, best[r], step);
      const int code = __shfl_xor_sync(0xffffffffu, where[r], step);
      if (other > best[r] || (other == best[r] && code < where[r])) {
        best[r] = other;
        where[r] = code;
      }
    }
    const int64_t row = row_at(place(ty, r));
    if (tx == 0 && row < p.rows) {
      scores[row * k + pass] = best[r];
      // None is left only where every sum overflowed to NaN; the index must still be one.
      indices[row * k + pass] = where[r] == kNone ? 0 : where[r];
    }
  }
}

// --- codebook_sums
// --------------------------------------------------------------------------------
//
// Rows come in order of their code (a stable sort), in fixed chunks, one block a chunk. A code
// whose rows lie within one chunk is summed there; partial sums of the others go to room for two in
// each chunk, (chunks, 2, width), which the last kernel adds in order. No atomics: the same bits
// every time. Each number is read once and added once: memory bounds it, 4 D M bytes in float32.

constexpr int kChunk = 64;  // rows

// begins[j]: where code j begins, for j in [0, size]; counts from them. The sorted codes are in
// range if the first and the last are.
__global__ void __launch_bounds__(kThreads)
    count_rows(const int64_t* sorted, int64_t rows, int64_t size, int64_t* begins, int64_t* counts,
               int* out_of_range) {
  const int64_t code = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (code == 0 && rows > 0 && (sorted[0] < 0 || sorted[rows - 1] >= size)) *out_of_range = 1;
  if (code > size) return;
  begins[code] = lower_bound(sorted, rows, code);
  if (code < size) counts[code] = lower_bound(sorted, rows, code + 1) - begins[code];
}

// Sums chunk blockIdx.x; a thread owns dimensions threadIdx.x + i blockDim.x.
template <class T, class S>
__global__ void __launch_bounds__(kThreads)
    sum_chunks(const S* z, const int64_t* order, const int64_t* sorted, const int64_t* begins,
               int64_t rows, int64_t size, int64_t width, T* partials, T* sums) {
  __shared__ int64_t row[kChunk], code[kChunk];
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kChunk;
  const int count = static_cast<int>(rows - begin < kChunk ? rows - begin : kChunk);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    row[i] = order[begin + i];
    code[i] = sorted[begin + i];
  }
  __syncthreads();
  for (int64_t d = threadIdx.x; d < width; d += blockDim.x) {
    T sum = 0;
    int start = 0;  // of the code that is being summed
    for (int i = 0; i < count; ++i) {
      sum += widen<T>(z[row[i] * width + d]);
      if (i + 1 < count && code[i + 1] == code[i]) continue;
      if (code[i] >= 0 && code[i] < size) {
        const bool whole = begins[code[i]] >= begin && begins[code[i] + 1] <= begin + count;
        const int64_t slot = 2 * static_cast<int64_t>(blockIdx.x) + (start > 0);
        (whole ? sums + code[i] * width : partials + slot * width)[d] = sum;
      }
      sum = 0;
      start = i + 1;
    }
  }
}

// Sums of code blockIdx.x if its rows lie in several chunks, or zero if it has none.
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_chunks(const int64_t* begins, int64_t width, const T* partials, T* sums) {
  const int64_t code = blockIdx.x, begin = begins[code], end = begins[code + 1];
  const int64_t first = begin / kChunk, last = (end - 1) / kChunk;
  if (begin < end && first == last) return;
  for (int64_t d = threadIdx.x; d < width; d += blockDim.x) {
    T sum = 0;
    for (int64_t chunk = first; begin < end && chunk <= last; ++chunk) {
      const int64_t slot = 2 * chunk + (chunk == first && begin % kChunk > 0);
      sum += partials[slot * width + d];
    }
    sums[code * width + d] = sum;
  }
}

}  // namespace codebook
}  // namespace sagittal

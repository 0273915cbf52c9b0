// sparse_decode on CUDA, and what a backward pass knows of the codes: kernels on raw pointers. With
// SAGITTAL_EMULATE defined, a header that gives threadIdx, __syncthreads and so on a meaning on the
// CPU must be included before this file.
#pragma once

#include <cstdint>

#include "../common/pack.cuh"

namespace sagittal {
namespace sparse {

constexpr int kMostThreads = 256;
constexpr int kStaged = 128;  // entries of a row in shared memory

// (rows, count / rows) entries, or (count) with offsets (rows + 1).
struct Codes {
  const int64_t* indices;
  const int64_t* offsets;
  int64_t rows, count, features;
};

// Nested prefixes of the features.
struct Groups {
  const int64_t* ends;
  int64_t count;

  // How many prefixes a feature lies beyond.
  __device__ __forceinline__ int64_t of(int64_t feature) const {
    return count > 1 ? lower_bound(ends, count, feature + 1) : 0;
  }
};

// What is wrong with the codes; every writer writes 1.
struct CodeFaults {
  int indices, offsets;
};

// A thread an entry or an offset. Nothing else reads the codes where a fault is set.
__global__ void __launch_bounds__(kMostThreads) check_codes(Codes c, CodeFaults* faults) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMostThreads + threadIdx.x;
  if (i < c.count && (c.indices[i] < 0 || c.indices[i] >= c.features)) faults->indices = 1;
  if (c.offsets == nullptr || i > c.rows) return;
  const int64_t next = i < c.rows ? c.offsets[i + 1] : c.count;
  if (c.offsets[i] > next || (i == 0 && c.offsets[0] != 0) ||
      (i == c.rows && c.offsets[i] != c.count))
    faults->offsets = 1;
}

// out_l = bias + sum of v_j W[i_j] over the row's entries of the first l + 1 groups, in order of
// group and entry. One block a row; a thread owns 16 bytes of each slab of dimensions.
//
// Bound: N k D T bytes of W gathered from the second-level cache if it holds W (537 MB at N = 4096,
// k = 32, D = 1024 in float32: 0.1 ms at 5.5 TB/s), otherwise from memory; N L D T written. 2 N k D
// Flop, half a Flop a byte. Entries pass through shared memory, read once for a slab and group.
template <class T>
__global__ void __launch_bounds__(kMostThreads, 4)
    decode(Codes c, const T* values, const T* weight, const T* bias, Groups groups, int64_t width,
           bool aligned, const CodeFaults* faults, T* out) {
  __shared__ const T* source[kStaged];
  __shared__ T scale[kStaged];
  __shared__ int64_t group[kStaged];
  constexpr int kCount = Pack<T>::kCount;
  if (faults->indices != 0 || faults->offsets != 0) return;
  const int64_t row = blockIdx.x, each = c.count / c.rows;
  const int64_t begin = c.offsets != nullptr ? c.offsets[row] : row * each;
  const int64_t end = c.offsets != nullptr ? c.offsets[row + 1] : begin + each;
  int64_t staged = -1;  // where the entries in shared memory begin
  for (int64_t slab = 0; slab < width; slab += blockDim.x * kCount) {
    const int64_t d = slab + threadIdx.x * kCount;
    Pack<T> sum = load(bias, d, width, aligned);
    for (int64_t l = 0; l < groups.count; ++l) {
      for (int64_t first = begin; first < end; first += kStaged) {
        const int count = static_cast<int>(end - first < kStaged ? end - first : kStaged);
        if (staged != first) {
          __syncthreads();
          for (int j = threadIdx.x; j < count; j += blockDim.x) {
            const int64_t feature = c.indices[first + j];
            source[j] = weight + feature * width;
            scale[j] = values[first + j];
            group[j] = groups.of(feature);
          }
          staged = first;
          __syncthreads();
        }
#pragma unroll 4
        for (int j = 0; j < count; ++j) {
          if (group[j] != l) continue;
          const Pack<T> pack = load(source[j], d, width, aligned);
#pragma unroll
          for (int i = 0; i < kCount; ++i) sum.value[i] += scale[j] * pack.value[i];
        }
      }
      store(sum, out + (l * c.rows + row) * width, d, width, aligned);
    }
  }
}

}  // namespace sparse
}  // namespace sagittal

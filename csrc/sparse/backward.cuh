// sparse_decode_backward and sparse_encode_backward on CUDA: kernels on raw pointers. With
// SAGITTAL_EMULATE defined, a header that gives threadIdx, __syncthreads and so on a meaning on the
// CPU must be included before this file.
//
// A sweep visits the entries in order of their feature (a stable sort), in fixed chunks, one block
// a chunk. A feature whose entries lie within one chunk is summed there; partial sums of the others
// go to room for two in each chunk, (chunks, 2, width), which `join` adds in order. No atomics: the
// same bits every time, and a feature that is active in every row is cut like any other.
//
// Bound: a sweep gathers N k D T bytes of g (or x) from the second-level cache if it holds them
// (537 MB at N = 4096, k = 32, D = 1024 in float32: 0.1 ms at 5.5 TB/s), otherwise from memory,
// reads W once, F D T, and writes as much; 4 N k D Flop in the decoder's, one Flop a byte. The dot
// products share the loads of the sums.
#pragma once

#include <cstdint>

#include "codes.cuh"

namespace sagittal {
namespace sparse {

constexpr int kChunk = 64;  // entries of one block
constexpr int kMostWarps = kMostThreads / 32;

// keys[i]: feature of entry i, or `features` if it is not active (values[i] <= 0; null: all are);
// rows[i]: its row. With a fault no entry is active, and nothing is read through the codes.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    find_rows(Codes c, const T* values, const CodeFaults* faults, int32_t* keys, int32_t* rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMostThreads + threadIdx.x;
  if (i >= c.count) return;
  const bool good = faults->indices == 0 && faults->offsets == 0;
  const bool active = good && (values == nullptr || values[i] > T(0));
  keys[i] = static_cast<int32_t>(active ? c.indices[i] : c.features);
  rows[i] =
      static_cast<int32_t>(!good                  ? 0
                           : c.offsets != nullptr ? lower_bound(c.offsets, c.rows + 1, i + 1) - 1
                                                  : i / (c.count / c.rows));
}

// begins[f]: where feature f begins in the sorted keys, for f in [0, features].
__global__ void __launch_bounds__(kMostThreads)
    find_begins(const int32_t* sorted, int64_t count, int64_t features, int64_t* begins) {
  const int64_t f = static_cast<int64_t>(blockIdx.x) * kMostThreads + threadIdx.x;
  if (f <= features) begins[f] = lower_bound(sorted, count, f);
}

// The entries in order of their feature, and what is summed over them.
template <class T>
struct Sweep {
  const int32_t* sorted;  // (count) features
  const int64_t* order;   // (count) entries
  const int32_t* rows;    // of the entries as they were given
  const int64_t* begins;  // (features + 1)
  int64_t count, features, width, row_count;
  Groups groups;
  const T* scales;  // of the entries as they were given: values, or the gradient of values
  const T* source;  // g, (groups, rows, width), or x
  const T* weight;  // decoder: (features, width)
  const T* shift;   // encoder: (width), or null
  bool aligned;
  T* partials;        // (chunks, 2, width)
  T* partial_biases;  // encoder: (chunks, 2)
  T* for_weight;      // (features, width)
  T* for_bias;        // encoder: (features)
  T* for_values;      // decoder: (count)
};

// Whether all entries of a feature lie in the chunk [begin, begin + kChunk); if not, which of the
// chunk's two places its partial sum takes: the second, unless it is the chunk's first feature.
__device__ __forceinline__ bool is_whole(const int64_t* begins, int64_t feature, int64_t begin) {
  return begins[feature] >= begin && begins[feature + 1] <= begin + kChunk;
}

template <class T, bool kDecoder>
__global__ void __launch_bounds__(kMostThreads, 4) sweep(Sweep<T> p) {
  __shared__ const T* source[kChunk];
  __shared__ T scale[kChunk];
  __shared__ int32_t feature[kChunk];
  __shared__ T dots[kChunk][kMostWarps];
  constexpr int kCount = Pack<T>::kCount;
  const int thread = threadIdx.x, warps = blockDim.x / 32;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kChunk;
  const int64_t active = p.begins[p.features] - begin;  // inactive ones come last
  const int count = static_cast<int>(active < kChunk ? active : kChunk);
  if (count <= 0) return;
  for (int j = thread; j < count; j += blockDim.x) {
    const int64_t entry = p.order[begin + j];
    feature[j] = p.sorted[begin + j];
    scale[j] = p.scales[entry];
    source[j] = p.source + (p.groups.of(feature[j]) * p.row_count + p.rows[entry]) * p.width;
  }
  __syncthreads();
  for (int64_t slab = 0; slab < p.width; slab += blockDim.x * kCount) {
    const int64_t d = slab + thread * kCount;
    Pack<T> sum = {}, weight = {}, shift = {};
    if (!kDecoder && p.shift != nullptr) shift = load(p.shift, d, p.width, p.aligned);
    Pack<T> next = load(source[0], d, p.width, p.aligned);
    bool first = true;  // feature of the chunk
    for (int j = 0; j < count; ++j) {
      const Pack<T> here = next;
      if (j + 1 < count) next = load(source[j + 1], d, p.width, p.aligned);  // in flight
      const int64_t f = feature[j];
      if constexpr (kDecoder) {
        if (j == 0 || feature[j - 1] != f)
          weight = load(p.weight + f * p.width, d, p.width, p.aligned);
        T dot = 0;
#pragma unroll
        for (int i = 0; i < kCount; ++i) dot += here.value[i] * weight.value[i];
#pragma unroll
        for (int step = 16; step > 0; step /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, step);
        if (thread % 32 == 0) dots[j][thread / 32] = slab == 0 ? dot : dots[j][thread / 32] + dot;
      }
#pragma unroll
      for (int i = 0; i < kCount; ++i) sum.value[i] += scale[j] * (here.value[i] - shift.value[i]);
      if (j + 1 < count && feature[j + 1] == f) continue;
      const int64_t slot = 2 * static_cast<int64_t>(blockIdx.x) + !first;
      T* const out =
          is_whole(p.begins, f, begin) ? p.for_weight + f * p.width : p.partials + slot * p.width;
      store(sum, out, d, p.width, p.aligned);
      sum = {};
      first = false;
    }
  }
  if constexpr (kDecoder) {
    __syncthreads();
    for (int j = thread; j < count; j += blockDim.x) {
      T dot = 0;
      for (int warp = 0; warp < warps && p.width > 0; ++warp) dot += dots[j][warp];
      p.for_values[p.order[begin + j]] = dot;
    }
  } else if (thread == 0) {
    T sum = 0;
    bool first = true;
    for (int j = 0; j < count; ++j) {
      sum += scale[j];
      if (j + 1 < count && feature[j + 1] == feature[j]) continue;
      const int64_t slot = 2 * static_cast<int64_t>(blockIdx.x) + !first;
      *(is_whole(p.begins, feature[j], begin) ? p.for_bias + feature[j] : p.partial_biases + slot) =
          sum;
      sum = 0;
      first = false;
    }
  }
}

// Sums of feature blockIdx.x if its entries lie in several chunks, zero if it has none.
template <class T>
__global__ void __launch_bounds__(kMostThreads, 4) join(Sweep<T> p) {
  const int64_t feature = blockIdx.x, begin = p.begins[feature], end = p.begins[feature + 1];
  const int64_t first = begin / kChunk, last = begin < end ? (end - 1) / kChunk : first - 1;
  if (first == last) return;
  auto slot = [&](int64_t chunk) { return 2 * chunk + (chunk == first && begin % kChunk > 0); };
  for (int64_t d = static_cast<int64_t>(threadIdx.x) * Pack<T>::kCount; d < p.width;
       d += blockDim.x * Pack<T>::kCount) {
    Pack<T> sum = {};
#pragma unroll 4
    for (int64_t chunk = first; chunk <= last; ++chunk) {
      const Pack<T> part = load(p.partials + slot(chunk) * p.width, d, p.width, p.aligned);
#pragma unroll
      for (int i = 0; i < Pack<T>::kCount; ++i) sum.value[i] += part.value[i];
    }
    store(sum, p.for_weight + feature * p.width, d, p.width, p.aligned);
  }
  if (threadIdx.x > 0 || p.for_bias == nullptr) return;
  T sum = 0;
  for (int64_t chunk = first; chunk <= last; ++chunk) sum += p.partial_biases[slot(chunk)];
  p.for_bias[feature] = sum;
}

}  // namespace sparse
}  // namespace sagittal

// topk_encode, threshold_encode and topk_select on CUDA: kernels on raw pointers. With
// SAGITTAL_EMULATE defined, a header that gives threadIdx, __syncthreads and so on a meaning on the
// CPU must be included before this file.
//
// The matrix product is torch's: chunks of at most kBytes of pre-activations, which stay in the
// second-level cache, are each read once, by `select`, a block a row. The k best of the chunks
// before lie in the results themselves; a chunk's values are compared with the k-th of them.
//
// Bound: select reads a chunk of R x C numbers once, R C T bytes at the second-level cache's rate
// (an H100's is about 5.5 TB/s, so 6 us for 32 MiB) and does a few comparisons for each number;
// the product that made the chunk does 2 R C D Flop (256 us at D = 1024 and 67 TFlop/s in float32).
// The product is the bound; it uses TF32 where torch is told to.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/pack.cuh"

namespace sagittal {
namespace sparse {

constexpr int64_t kBytes = int64_t{1} << 25;  // of pre-activations at a time
constexpr int kThreads = 256;
constexpr int kEach = 16;                // values of a tile that a thread holds
constexpr int kTile = kThreads * kEach;  // values of a row that a block holds
constexpr int kMost = 1024;              // entries of a row that one pass finds
constexpr int kRoom = 2048;              // keys in shared memory, a power of two, > kMost
constexpr int kStep = kRoom - kMost;     // keys that are added before there must be room again

// A value and its index, larger when earlier in the order: value descending, index ascending.
// Zero, which no number gives, means none.
template <class T>
struct alignas(2 * sizeof(T)) Key {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  static constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
  Bits bits;
  uint32_t rest;

  __device__ __forceinline__ static Key make(T value, int64_t index) {
    value += T(0);  // -0 and 0 are equal
    Bits bits;
    memcpy(&bits, &value, sizeof bits);
    return {bits & kSign ? ~bits : bits | kSign, 0xffffffffu - static_cast<uint32_t>(index)};
  }
  __device__ __forceinline__ T value() const {
    const Bits given = bits & kSign ? bits & ~kSign : ~bits;
    T value;
    memcpy(&value, &given, sizeof value);
    return value;
  }
  __device__ __forceinline__ int64_t index() const { return 0xffffffffu - rest; }
  __device__ __forceinline__ bool operator>(const Key& other) const {
    return bits > other.bits || (bits == other.bits && rest > other.rest);
  }
};

// Numbers of some rows and of features [first, first + width), and what is done to them.
template <class T>
struct Rows {
  const T* values;  // (rows, width)
  int64_t width, first;
  int64_t first_row;   // of the caller's, for the message about NaN
  const T* bias;       // (F), added; null: none, and negative numbers stay
  const T* threshold;  // (F), or (1) if one_threshold; null: none
  bool one_threshold;
  bool aligned;  // rows begin at multiples of 16 bytes

  // Number `at` of a row, x, after bias, rectification and threshold; NaN becomes 0 and is noted.
  __device__ __forceinline__ T activation(T x, int64_t at, bool* nan) const {
    if (bias != nullptr) x += bias[first + at];
    if (x != x) *nan = true;
    if (x != x || (bias != nullptr && x < T(0))) x = 0;
    if (threshold != nullptr && !(x > threshold[one_threshold ? 0 : first + at])) x = 0;
    return x;
  }
};

// The entries found: row r begins at begins[r] - base, or at r k.
template <class T>
struct Found {
  T* values;
  int64_t* indices;
  const int64_t* begins;
  int64_t base, k;
};

__device__ __forceinline__ void note_row(int64_t row, unsigned long long* lowest) {
  atomicMin(lowest, static_cast<unsigned long long>(row));
}

// Sorts keys[0, size), size a power of two, in descending order; a barrier before and after.
template <class T>
__device__ void sort_keys(Key<T>* keys, int size) {
  for (int length = 2; length <= size; length *= 2)
    for (int stride = length / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < size / 2; i += kThreads) {
        const int low = 2 * i - (i & (stride - 1)), high = low + stride;
        const Key<T> a = keys[low], b = keys[high];
        if ((low & length) == 0 ? b > a : a > b) {
          keys[low] = b;
          keys[high] = a;
        }
      }
    }
  __syncthreads();
}

// Keeps the `most` largest of `held` keys, sorted; how many there are. The caller's barriers.
template <class T>
__device__ int cut_keys(Key<T>* keys, int held, int most) {
  int size = 1;
  while (size < held) size *= 2;
  for (int i = held + threadIdx.x; i < size; i += kThreads) keys[i] = Key<T>{0, 0};
  sort_keys(keys, size);
  return held < most ? held : most;
}

// The entries of rank done + 1 .. done + kMost of every row, or up to the row's number of entries;
// with p.first > 0, of these features and the entries that stand in `found` already.
template <class T>
__global__ void __launch_bounds__(kThreads)
    select(Rows<T> p, Found<T> found, int64_t done, unsigned long long* nan_row) {
  __shared__ Key<T> keys[kRoom];
  __shared__ int count;
  constexpr int kCount = Pack<T>::kCount;
  const int thread = threadIdx.x;
  const int64_t row = blockIdx.x;
  const int64_t begin = found.begins != nullptr ? found.begins[row] - found.base : row * found.k;
  const int64_t all =
      (found.begins != nullptr ? found.begins[row + 1] - found.base - begin : found.k) - done;
  if (all <= 0) return;
  T* const values = found.values + begin + done;
  int64_t* const indices = found.indices + begin + done;
  const int most = all < kMost ? static_cast<int>(all) : kMost;
  int held = p.first < most ? static_cast<int>(p.first) : most;  // keys in use, at every thread
  for (int i = thread; i < held; i += kThreads) keys[i] = Key<T>::make(values[i], indices[i]);
  if (thread == 0) count = held;
  __syncthreads();
  const bool bounded = done > 0;
  const Key<T> none = {0, 0};
  const Key<T> bound = bounded ? Key<T>::make(values[-1], indices[-1]) : none;
  Key<T> limit = held == most ? keys[most - 1] : none;  // what is less can't be among the best
  const T* const numbers = p.values + row * p.width;
  bool nan = false;

  for (int64_t tile = 0; tile < p.width; tile += kTile) {
    T mine[kEach];
    auto place = [&](int j) {  // of mine[j] in the row
      return tile + (j / kCount * kThreads + thread) * kCount + j % kCount;
    };
#pragma unroll
    for (int j = 0; j < kEach; j += kCount) {
      const Pack<T> pack = load(numbers, place(j), p.width, p.aligned);
#pragma unroll
      for (int i = 0; i < kCount; ++i) mine[j + i] = pack.value[i];
    }
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (place(j) < p.width) mine[j] = p.activation(mine[j], place(j), &nan);
    auto key = [&](int j) {
      if (place(j) >= p.width) return none;
      const Key<T> made = Key<T>::make(mine[j], p.first + place(j));
      return bounded && !(bound > made) ? none : made;
    };
    // Of disjoint groups, one a thread, the most-th largest maximum is a limit.
    if (held < most && most <= kThreads) {
      Key<T> best = none;
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (key(j) > best) best = key(j);
      keys[kMost + thread] = best;
      sort_keys(keys + kMost, kThreads);
      if (keys[kMost + most - 1] > limit) limit = keys[kMost + most - 1];
      __syncthreads();
    }
    auto survives = [&](int j) {
      const Key<T> made = key(j);
      return made.bits != 0 && !(limit > made);
    };
    int survivors = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) survivors += survives(j);
    if (!__syncthreads_or(survivors > 0)) continue;
    int at = survivors > 0 ? atomicAdd(&count, survivors) : 0;
    __syncthreads();
    if (count <= kRoom) {
      held = count;
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (survives(j)) keys[at++] = key(j);
      continue;  // the next barrier is that of the next tile, or that below
    }
    __syncthreads();
    if (held > kMost) held = cut_keys(keys, held, most);
    if (thread == 0) count = held;
#pragma unroll 1
    for (int group = 0; group < kEach; group += kCount) {  // at most kStep values each
      __syncthreads();
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (j / kCount * kCount == group && survives(j)) keys[atomicAdd(&count, 1)] = key(j);
      __syncthreads();
      held = count;
      if (held <= kMost) continue;
      held = cut_keys(keys, held, most);
      if (held == most && keys[most - 1] > limit) limit = keys[most - 1];
      if (thread == 0) count = held;
    }
  }
  if (nan) note_row(p.first_row + row, nan_row);
  __syncthreads();
  held = cut_keys(keys, held, most);
  for (int i = thread; i < held; i += kThreads) {
    values[i] = keys[i].value();
    indices[i] = keys[i].index();
  }
}
static_assert(kThreads * 4 <= kStep && kMost + kThreads <= kRoom, "keys do not fit");

// counts[row]: activations above zero. Reads the numbers once: the second-level cache bounds it.
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_active(Rows<T> p, int64_t* counts, unsigned long long* nan_row) {
  __shared__ int total;
  const int64_t row = blockIdx.x;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  int active = 0;
  bool nan = false;
  for (int64_t at = static_cast<int64_t>(threadIdx.x) * Pack<T>::kCount; at < p.width;
       at += kThreads * Pack<T>::kCount) {
    const Pack<T> pack = load(p.values + row * p.width, at, p.width, p.aligned);
#pragma unroll
    for (int i = 0; i < Pack<T>::kCount; ++i)
      if (at + i < p.width) active += p.activation(pack.value[i], at + i, &nan) > T(0);
  }
  if (nan) note_row(p.first_row + row, nan_row);
  atomicAdd(&total, active);
  __syncthreads();
  if (threadIdx.x == 0) counts[row] = total;
}

// offsets[r + 1] = offsets[0] + counts[0] + .. + counts[r]; report: the largest count and the last
// offset. One block; rows > 0.
__global__ void __launch_bounds__(kThreads)
    sum_counts(const int64_t* counts, int64_t rows, int64_t* offsets, int64_t* report) {
  __shared__ int64_t sums[kThreads], tops[kThreads];
  const int thread = threadIdx.x;
  const int64_t each = (rows + kThreads - 1) / kThreads;
  const int64_t begin = thread * each, end = begin + each < rows ? begin + each : rows;
  int64_t sum = 0, top = 0;
  for (int64_t r = begin; r < end; ++r) {
    sum += counts[r];
    top = counts[r] > top ? counts[r] : top;
  }
  sums[thread] = sum;
  tops[thread] = top;
  __syncthreads();
  int64_t before = offsets[0];
  for (int t = 0; t < thread; ++t) before += sums[t];
  for (int64_t r = begin; r < end; ++r) offsets[r + 1] = before += counts[r];
  if (begin < rows && end == rows) report[1] = before;
  if (thread > 0) return;
  for (int t = 0; t < kThreads; ++t) top = tops[t] > top ? tops[t] : top;
  report[0] = top;
}

}  // namespace sparse
}  // namespace sagittal

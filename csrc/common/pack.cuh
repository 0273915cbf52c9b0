// What the CUDA kernels share: loads of 16 bytes and a search. Raw pointers only. With
// SAGITTAL_EMULATE defined, a header that gives threadIdx, __syncthreads and so on a meaning on the
// CPU must be included before this file.
#pragma once

#include <cstdint>

namespace sagittal {

// 16 bytes of numbers, moved at once.
template <class S>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(S);
  S value[kCount];
};

// The pack at `begin` of a row: numbers beyond the width are zero.
template <class S>
__device__ __forceinline__ Pack<S> load(const S* row, int64_t begin, int64_t width, bool aligned) {
  if (aligned && begin + Pack<S>::kCount <= width)
    return *reinterpret_cast<const Pack<S>*>(row + begin);
  Pack<S> pack;
#pragma unroll
  for (int i = 0; i < Pack<S>::kCount; ++i)
    pack.value[i] = begin + i < width ? row[begin + i] : S{};
  return pack;
}

// Writes what of the pack lies within the width.
template <class S>
__device__ __forceinline__ void store(const Pack<S>& pack, S* row, int64_t begin, int64_t width,
                                      bool aligned) {
  if (aligned && begin + Pack<S>::kCount <= width) {
    *reinterpret_cast<Pack<S>*>(row + begin) = pack;
    return;
  }
#pragma unroll
  for (int i = 0; i < Pack<S>::kCount; ++i)
    if (begin + i < width) row[begin + i] = pack.value[i];
}

// First entry of `sorted` that is >= key.
template <class S, class Key>
__device__ __forceinline__ int64_t lower_bound(const S* sorted, int64_t count, Key key) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (sorted[middle] < key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

}  // namespace sagittal

// What CUDA kernels of several families share: complex numbers, packs of numbers that are moved at
// once, dynamic shared memory, sums over a block. No torch include; with SAGITTAL_EMULATE defined
// the emulator's header comes first.
#pragma once

#include <cstdint>

namespace sagittal {

template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T re, im;
};

template <class T>
__device__ __forceinline__ Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
__device__ __forceinline__ Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
// conj(a) b
template <class T>
__device__ __forceinline__ Complex<T> conj_times(Complex<T> a, Complex<T> b) {
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// Numbers that one load or store moves: up to 16 bytes.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Numbers {
  T value[kCount];
};

#ifdef SAGITTAL_EMULATE
inline char* dynamic_shared() { return emulator::dynamic_shared(); }
#else
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}
#endif

// The sum of `value` over a block of kThreads, at every thread, always in the same order. `room`
// is shared and may be used again after the next barrier.
template <int kThreads>
__device__ __forceinline__ double block_sum(double value, double* room) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += room[warp];
  return sum;
}

}  // namespace sagittal

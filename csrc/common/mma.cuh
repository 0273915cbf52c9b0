// The product of the tensor cores behind one device function, mma_tile, with a twin on the CPU.
// With SAGITTAL_EMULATE defined, a header that gives threadIdx, __syncwarp and so on a meaning on
// the CPU must be included before this file.
//
// A warp adds a 16 x 8 product to its accumulators. The factors are lines of eight 32-bit words: of
// eight TF32 numbers (m16n8k8) or of sixteen halves, two a word (m16n8k16). Both have one layout,
// by words; with g = lane / 4 and t = lane % 4 lane holds, in register r,
//   a[r]: row g + 8 (r % 2), word t + 4 (r / 2)
//   b[r]: column g, word t + 4 r
//   c[r]: row g + 8 (r / 2), column 2 t + r % 2
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k8" and "... mma.m16n8k16".
#pragma once

#include <cmath>
#include <cstdint>

namespace sagittal {

enum class Numbers32 { kTf32, kHalf, kBFloat16 };  // what the words hold

// To 10 bits after the leading one, to nearest, halves away from zero: an error of 2^-11 of |x|.
__device__ __forceinline__ uint32_t to_tf32(float x) {
#ifdef SAGITTAL_EMULATE
  return (__builtin_bit_cast(uint32_t, x) + 0x1000u) & ~0x1fffu;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return __float_as_uint(x);  // mma_tile traps there
#else
  uint32_t word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
  return word;
#endif
}

#ifdef SAGITTAL_EMULATE

inline uint32_t mma_room[32][32][6];  // warps of a block, lanes, registers of both factors

template <Numbers32 kNumbers>
double mma_word(uint32_t a, uint32_t b) {
  if constexpr (kNumbers == Numbers32::kTf32) {  // the lowest 13 bits are not wired
    return double(__builtin_bit_cast(float, a & ~0x1fffu)) *
           __builtin_bit_cast(float, b & ~0x1fffu);
  } else {
    double sum = 0;
    for (int i = 0; i < 2; ++i, a >>= 16, b >>= 16) {
      const auto x = static_cast<uint16_t>(a), y = static_cast<uint16_t>(b);
      if constexpr (kNumbers == Numbers32::kHalf)
        sum += double(__builtin_bit_cast(_Float16, x)) * double(__builtin_bit_cast(_Float16, y));
      else
        sum += double(__builtin_bit_cast(float, uint32_t(x) << 16)) *
               __builtin_bit_cast(float, uint32_t(y) << 16);
    }
    return sum;
  }
}

// Rounds towards zero, as tensor cores do: measured by Fasi et al., PeerJ Computer Science 7:e330.
template <Numbers32 kNumbers>
void mma_tile(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int lane = threadIdx.x % 32;
  auto& room = mma_room[threadIdx.x / 32];
  for (int r = 0; r < 6; ++r) room[lane][r] = r < 4 ? a[r] : b[r - 4];
  __syncwarp();
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
    double sum = c[r];
    for (int word = 0; word < 8; ++word)
      sum += mma_word<kNumbers>(room[row % 8 * 4 + word % 4][row / 8 + 2 * (word / 4)],
                                room[column * 4 + word % 4][4 + word / 4]);
    c[r] = static_cast<float>(sum);
    if (std::abs(c[r]) > std::abs(sum) && std::isfinite(c[r])) c[r] = std::nextafter(c[r], 0.0f);
  }
  __syncwarp();
}

#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

template <Numbers32 kNumbers>
__device__ __forceinline__ void mma_tile(float (&c)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
#define SAGITTAL_MMA(shape)                                                       \
  asm volatile("mma.sync.aligned." shape                                          \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (kNumbers == Numbers32::kTf32)
    SAGITTAL_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  else if constexpr (kNumbers == Numbers32::kHalf)
    SAGITTAL_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  else
    SAGITTAL_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
#undef SAGITTAL_MMA
}

#else  // an older GPU: launchers refuse it

template <Numbers32 kNumbers>
__device__ __forceinline__ void mma_tile(float (&)[4], const uint32_t (&)[4],
                                         const uint32_t (&)[2]) {
  __trap();
}

#endif

}  // namespace sagittal

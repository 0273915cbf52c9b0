// The register tile of a matrix product, and memory for packed operands.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "isa.h"

namespace sagittal {

// Vectors of kBytes, loaded from any address, and the rows of a register tile two vectors wide.
template <class T, int kBytes>
struct Simd {
  static constexpr int kLanes = kBytes / sizeof(T);
  static constexpr int kRows = kBytes == 64 ? 12 : 6;  // accumulators: 24 of 32, or 12 of 16
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Vector __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
  typedef Int Mask __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));

  static SAGITTAL_INLINE const Vector& at(const T* p) {
    return *reinterpret_cast<const Vector*>(p);
  }
  static SAGITTAL_INLINE Vector& at(T* p) { return *reinterpret_cast<Vector*>(p); }
};

// sum[r] = start[r * step ..] + row[r] . panel, where the panel is (width, 2 vectors). Every
// element is summed over the width in order, whatever the tile: equal inputs give equal bits
// everywhere.
template <class T, int kBytes, class S = Simd<T, kBytes>>
SAGITTAL_INLINE void multiply(const T* const (&row)[S::kRows], const T* panel, int64_t width,
                              const T* start, int64_t step,
                              typename S::Vector (&sum)[S::kRows][2]) {
#pragma GCC unroll 12
  for (int r = 0; r < S::kRows; ++r) {
    sum[r][0] = S::at(start + r * step);
    sum[r][1] = S::at(start + r * step + S::kLanes);
  }
#pragma GCC unroll 4
  for (int64_t d = 0; d < width; ++d) {
    const typename S::Vector low = S::at(panel + d * 2 * S::kLanes);
    const typename S::Vector high = S::at(panel + d * 2 * S::kLanes + S::kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < S::kRows; ++r) {
      sum[r][0] += row[r][d] * low;
      sum[r][1] += row[r][d] * high;
    }
  }
}

// Uninitialised memory that starts at a cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count)
      : data_(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64)))) {}
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
};

}  // namespace sagittal

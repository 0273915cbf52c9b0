// What the transforms of the normal operator read and write, and their shuffles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "../common/isa.h"
#include "../common/tile.h"
#include "fft.h"

namespace sagittal {

// --- shuffles ------------------------------------------------------------------------------------

// Vectors of pairs to and from a vector of first and one of second entries, and the steps of a
// transposition. Lanes below kLanes are those of the first vector, the others those of the second.
template <class S, class Sequence>
struct Shuffles;
template <class S, int... kLane>
struct Shuffles<S, std::integer_sequence<int, kLane...>> {
  static constexpr int L = S::kLanes;
  using Mask = typename S::Mask;
  template <class V>
  static SAGITTAL_INLINE void split(const V& low, const V& high, V& first, V& second) {
    const Mask even = {(2 * kLane)...}, odd = {(2 * kLane + 1)...};
    first = __builtin_shuffle(low, high, even), second = __builtin_shuffle(low, high, odd);
  }
  template <class V>
  static SAGITTAL_INLINE void join(const V& first, const V& second, V& low, V& high) {
    const Mask front = {(kLane / 2 + kLane % 2 * L)...};
    const Mask back = {(L / 2 + kLane / 2 + kLane % 2 * L)...};
    low = __builtin_shuffle(first, second, front), high = __builtin_shuffle(first, second, back);
  }
  // Exchanges the off-diagonal blocks of side `kSide` of rows i and i + kSide of a square.
  template <int kSide, class V>
  static SAGITTAL_INLINE void exchange(V& a, V& b) {
    const Mask upper = {((kLane & kSide) == 0 ? kLane : kLane - kSide + L)...};
    const Mask lower = {((kLane & kSide) == 0 ? kLane + kSide : kLane + L)...};
    const V above = __builtin_shuffle(a, b, upper);
    b = __builtin_shuffle(a, b, lower), a = above;
  }
  template <int kSide, class V>
  static SAGITTAL_INLINE void transpose(V* rows) {
    if constexpr (kSide > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i)
        if ((i & kSide) == 0) exchange<kSide>(rows[i], rows[i + kSide]);
      transpose<kSide / 2>(rows);
    }
  }
};
template <class T, int kBytes>
using ShufflesOf =
    Shuffles<Simd<T, kBytes>, std::make_integer_sequence<int, Simd<T, kBytes>::kLanes>>;

// `width` complex numbers, the other lanes zero.
template <class T, int kBytes, class V>
SAGITTAL_INLINE void load_complex(const T* from, int64_t width, V& re, V& im) {
  using S = Simd<T, kBytes>;
  if (width == S::kLanes) {
    ShufflesOf<T, kBytes>::split(S::at(from), S::at(from + S::kLanes), re, im);
    return;
  }
  T padded[2 * S::kLanes] = {};
  std::copy(from, from + 2 * width, padded);
  ShufflesOf<T, kBytes>::split(S::at(padded), S::at(padded + S::kLanes), re, im);
}

template <class T, int kBytes, class V>
SAGITTAL_INLINE void store_complex(T* to, int64_t width, const V& re, const V& im) {
  using S = Simd<T, kBytes>;
  V low, high;
  ShufflesOf<T, kBytes>::join(re, im, low, high);
  if (width == S::kLanes) {
    S::at(to) = low, S::at(to + S::kLanes) = high;
    return;
  }
  T padded[2 * S::kLanes];
  S::at(padded) = low, S::at(padded + S::kLanes) = high;
  std::copy(padded, padded + 2 * width, to);
}

// --- what the transforms read and write ----------------------------------------------------------

// Columns of S x, times m along the axis if kModulated.
template <class T, bool kModulated>
struct Product {
  const T *image, *map, *modulation;
  int64_t stride, width;  // of a row in numbers; columns

  template <int kBytes, class V>
  SAGITTAL_INLINE void get(int64_t i, V& re, V& im) const {
    V a_re, a_im, b_re, b_im;
    load_complex<T, kBytes>(image + i * stride, width, a_re, a_im);
    load_complex<T, kBytes>(map + i * stride, width, b_re, b_im);
    re = a_re * b_re - a_im * b_im;
    im = a_re * b_im + a_im * b_re;
    if (kModulated) turn<false>(modulation + 2 * i, re, im);
  }
};

// Adds conj(S m) times the columns of a coil to `from` times `factor`.
template <class T, bool kModulated>
struct AddCoil {
  const T *from, *map, *modulation;
  T* to;
  T factor;
  int64_t stride, width;

  template <int kBytes, class V>
  SAGITTAL_INLINE void put(int64_t i, const V& coil_re, const V& coil_im) const {
    V re = coil_re, im = coil_im, a_re, a_im, b_re, b_im;
    if (kModulated) turn<true>(modulation + 2 * i, re, im);
    load_complex<T, kBytes>(map + i * stride, width, a_re, a_im);
    load_complex<T, kBytes>(from + i * stride, width, b_re, b_im);
    const V sum_re = factor * b_re + (a_re * re + a_im * im);
    const V sum_im = factor * b_im + (a_re * im - a_im * re);
    store_complex<T, kBytes>(to + i * stride, width, sum_re, sum_im);
  }
};

// Points that are `step` numbers apart, times m along the axis if kModulated.
template <class T, bool kModulated>
struct Apart {
  const T* data;
  int64_t step;
  const T* modulation;

  template <int kBytes, class V>
  SAGITTAL_INLINE void get(int64_t i, V& re, V& im) const {
    using S = Simd<T, kBytes>;
    re = S::at(data + step * i), im = S::at(data + step * i + S::kLanes);
    if (kModulated) turn<false>(modulation + 2 * i, re, im);
  }
};

// To points that are `step` numbers apart, plus conj(m) times `other`.
template <class T>
struct AddModulated {
  T* to;
  int64_t step;
  T* other;
  const T* modulation;

  template <int kBytes, class V>
  SAGITTAL_INLINE void put(int64_t i, const V& plain_re, const V& plain_im) const {
    using S = Simd<T, kBytes>;
    V re, im;
    Lines<T>{other}.template get<kBytes>(i, re, im);
    turn<true>(modulation + 2 * i, re, im);
    S::at(to + step * i) = plain_re + re, S::at(to + step * i + S::kLanes) = plain_im + im;
  }
};

// `count` squares (lanes, 2, lanes), `step` apart in one place and adjacent in the other, from
// one place to the other with lines and lanes exchanged.
template <class T, bool kGather>
struct TransposeBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(T* columns, int64_t step, int64_t count, T* rows) {
    using S = Simd<T, kBytes>;
    constexpr int L = S::kLanes;
    for (int64_t square = 0; square < 2 * count; ++square) {
      T* apart = columns + square / 2 * step + square % 2 * L;
      T* adjacent = rows + square / 2 * 2 * L * L + square % 2 * L;
      const T* from = kGather ? apart : adjacent;
      T* to = kGather ? adjacent : apart;
      typename S::Vector lines[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) lines[i] = S::at(from + 2 * L * i);
      ShufflesOf<T, kBytes>::template transpose<L / 2>(lines);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) S::at(to + 2 * L * i) = lines[i];
    }
  }
};

// The first `used` of `rows`, times a scale, as columns `to` (n, lanes), column j at position[j].
template <class T>
struct ColumnsBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* const* rows, int64_t used, int64_t n,
                                  const int64_t* position, T scale, T* to) {
    using S = Simd<T, kBytes>;
    constexpr int L = S::kLanes;
    for (int64_t j = 0; j < n; j += L) {
      const int64_t width = std::min<int64_t>(L, n - j);
      typename S::Vector lines[L];
      if (used == L && width == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) lines[i] = S::at(rows[i] + j);
      } else {
        T padded[L * L] = {};
        for (int64_t i = 0; i < used; ++i)
          std::copy(rows[i] + j, rows[i] + j + width, padded + i * L);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) lines[i] = S::at(padded + i * L);
      }
      ShufflesOf<T, kBytes>::template transpose<L / 2>(lines);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i)
        if (i < width) S::at(to + position[j + i] * L) = scale * lines[i];
    }
  }
};

}  // namespace sagittal

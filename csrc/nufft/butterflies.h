// Transforms of a few points in registers, or of a prime number of them in memory, on vectors of
// real and of imaginary parts. With re and im exchanged they are the inverse, without a factor.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/isa.h"

namespace sagittal {

constexpr int kLargestPrime = 127;

// cos and sin of 2 pi k / R, for odd R.
template <int R>
struct Angles;
template <>
struct Angles<3> {
  static constexpr double kCos[] = {1, -0.5, -0.5};
  static constexpr double kSin[] = {0, 0.86602540378443864676, -0.86602540378443864676};
};
template <>
struct Angles<5> {
  static constexpr double kCos[] = {1, 0.30901699437494742410, -0.80901699437494742410,
                                    -0.80901699437494742410, 0.30901699437494742410};
  static constexpr double kSin[] = {0, 0.95105651629515357212, 0.58778525229247312917,
                                    -0.58778525229247312917, -0.95105651629515357212};
};
template <>
struct Angles<7> {
  static constexpr double kCos[] = {1,
                                    0.62348980185873353053,
                                    -0.22252093395631440429,
                                    -0.90096886790241912624,
                                    -0.90096886790241912624,
                                    -0.22252093395631440429,
                                    0.62348980185873353053};
  static constexpr double kSin[] = {0,
                                    0.78183148246802980871,
                                    0.97492791218182360702,
                                    0.43388373911755812048,
                                    -0.43388373911755812048,
                                    -0.97492791218182360702,
                                    -0.78183148246802980871};
};

// The transform of R points, exp(-2 pi i j k / R).
template <class T, int R>
struct Butterfly {
  template <class V>
  static SAGITTAL_INLINE void run(V* re, V* im) {
    constexpr int kHalf = (R - 1) / 2;
    V even_re[kHalf], even_im[kHalf], odd_re[kHalf], odd_im[kHalf];
    const V first_re = re[0], first_im = im[0];
#pragma GCC unroll 3
    for (int m = 0; m < kHalf; ++m) {
      even_re[m] = re[m + 1] + re[R - 1 - m], odd_re[m] = re[m + 1] - re[R - 1 - m];
      even_im[m] = im[m + 1] + im[R - 1 - m], odd_im[m] = im[m + 1] - im[R - 1 - m];
      re[0] += even_re[m], im[0] += even_im[m];
    }
#pragma GCC unroll 3
    for (int k = 1; k <= kHalf; ++k) {
      V a_re = first_re, a_im = first_im;
      V b_re = T(Angles<R>::kSin[k]) * odd_re[0], b_im = T(Angles<R>::kSin[k]) * odd_im[0];
#pragma GCC unroll 3
      for (int m = 0; m < kHalf; ++m) {
        const T cosine = Angles<R>::kCos[k * (m + 1) % R], sine = Angles<R>::kSin[k * (m + 1) % R];
        a_re += cosine * even_re[m], a_im += cosine * even_im[m];
        if (m > 0) b_re += sine * odd_re[m], b_im += sine * odd_im[m];
      }
      re[k] = a_re + b_im, im[k] = a_im - b_re;
      re[R - k] = a_re - b_im, im[R - k] = a_im + b_re;
    }
  }
};

template <class T>
struct Butterfly<T, 1> {
  template <class V>
  static SAGITTAL_INLINE void run(V*, V*) {}
};

template <class T>
struct Butterfly<T, 2> {
  template <class V>
  static SAGITTAL_INLINE void run(V* re, V* im) {
    const V a_re = re[0], a_im = im[0];
    re[0] += re[1], im[0] += im[1];
    re[1] = a_re - re[1], im[1] = a_im - im[1];
  }
};

template <class T>
struct Butterfly<T, 4> {
  template <class V>
  static SAGITTAL_INLINE void run(V* re, V* im) {
    const V a_re = re[0] + re[2], a_im = im[0] + im[2], b_re = re[0] - re[2], b_im = im[0] - im[2];
    const V c_re = re[1] + re[3], c_im = im[1] + im[3], d_re = re[1] - re[3], d_im = im[1] - im[3];
    re[0] = a_re + c_re, im[0] = a_im + c_im;
    re[1] = b_re + d_im, im[1] = b_im - d_re;
    re[2] = a_re - c_re, im[2] = a_im - c_im;
    re[3] = b_re - d_im, im[3] = b_im + d_re;
  }
};

template <class T>
struct Butterfly<T, 8> {
  template <class V>
  static SAGITTAL_INLINE void run(V* re, V* im) {
    constexpr T kHalfRoot = 0.70710678118654752440;
    V e_re[4] = {re[0], re[2], re[4], re[6]}, e_im[4] = {im[0], im[2], im[4], im[6]};
    V o_re[4] = {re[1], re[3], re[5], re[7]}, o_im[4] = {im[1], im[3], im[5], im[7]};
    Butterfly<T, 4>::run(e_re, e_im);
    Butterfly<T, 4>::run(o_re, o_im);
    const V p_re = o_re[1] + o_im[1], p_im = o_im[1] - o_re[1];
    const V q_re = o_im[3] - o_re[3], q_im = -o_im[3] - o_re[3];
    re[0] = e_re[0] + o_re[0], im[0] = e_im[0] + o_im[0];
    re[4] = e_re[0] - o_re[0], im[4] = e_im[0] - o_im[0];
    re[1] = e_re[1] + kHalfRoot * p_re, im[1] = e_im[1] + kHalfRoot * p_im;
    re[5] = e_re[1] - kHalfRoot * p_re, im[5] = e_im[1] - kHalfRoot * p_im;
    re[2] = e_re[2] + o_im[2], im[2] = e_im[2] - o_re[2];
    re[6] = e_re[2] - o_im[2], im[6] = e_im[2] + o_re[2];
    re[3] = e_re[3] + kHalfRoot * q_re, im[3] = e_im[3] + kHalfRoot * q_im;
    re[7] = e_re[3] - kHalfRoot * q_re, im[7] = e_im[3] - kHalfRoot * q_im;
  }
};

// For a prime above 7, kAnyPrime for R: the transform of `size` points in memory. Its products are
// `size` multiply-adds a point.
constexpr int kAnyPrime = 0;

template <class T, class V>
SAGITTAL_INLINE void any_butterfly(int64_t size, const T* roots, V* re, V* im) {
  constexpr int kMost = kLargestPrime / 2;
  V even_re[kMost], even_im[kMost], odd_re[kMost], odd_im[kMost];
  const int64_t half = size / 2;
  const V first_re = re[0], first_im = im[0];
  for (int64_t m = 0; m < half; ++m) {
    const V &a_re = re[m + 1], &a_im = im[m + 1], &b_re = re[size - 1 - m],
            &b_im = im[size - 1 - m];
    even_re[m] = a_re + b_re, even_im[m] = a_im + b_im;
    odd_re[m] = a_re - b_re, odd_im[m] = a_im - b_im;
    re[0] += even_re[m], im[0] += even_im[m];
  }
  for (int64_t k = 1; k <= half; k += 2) {
    // Two at a time: half the loads. If there is no second one, the first one twice.
    const int64_t step[2] = {k, std::min(k + 1, half)};
    int64_t angle[2] = {};
    V a_re[2] = {first_re, first_re}, a_im[2] = {first_im, first_im}, b_re[2] = {}, b_im[2] = {};
    for (int64_t m = 0; m < half; ++m) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        angle[i] += step[i];
        if (angle[i] >= size) angle[i] -= size;
        const T cosine = roots[2 * angle[i]], sine = roots[2 * angle[i] + 1];
        a_re[i] += cosine * even_re[m], a_im[i] += cosine * even_im[m];
        b_re[i] += sine * odd_re[m], b_im[i] += sine * odd_im[m];
      }
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      re[step[i]] = a_re[i] + b_im[i], im[step[i]] = a_im[i] - b_re[i];
      re[size - step[i]] = a_re[i] - b_im[i], im[size - step[i]] = a_im[i] + b_re[i];
    }
  }
}

}  // namespace sagittal

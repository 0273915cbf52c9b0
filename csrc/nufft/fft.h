// Transforms of many lines of one length at once, one line a vector lane, on split real and
// imaginary parts: point i of a set of lines is one vector of real parts and one of imaginary
// parts.
//
// A length is a product of radices; a pass does the butterflies of one of them in place. Forward
// passes run from the first radix to the last and leave the frequencies in the order of
// FftPlan::frequency, from which the inverse passes, run from the last to the first, start: nothing
// is ever sorted. What is read by the first pass of a transform, and what becomes of the results of
// the last one, is up to a Source and a Sink.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/isa.h"
#include "../common/tile.h"

namespace sagittal {

// `blocks` blocks of radix * stride points; a butterfly takes points that are `stride` apart.
template <class T>
struct FftPass {
  int64_t radix, blocks, stride;
  std::vector<T> twiddles;  // (stride, radix - 1, 2): exp(-2 pi i j k / (radix stride))
};

template <class T>
struct FftPlan {
  int64_t n;
  std::vector<FftPass<T>> passes;  // at least two
  std::vector<int64_t> frequency;  // of each position after the forward passes
  std::vector<T> modulation;       // (n, 2): exp(-i pi j / n)
};

// Whether n > 0 has no prime factor above 7.
bool fft_fits(int64_t n);

// The plan of a length that fits: made once, kept until the process ends, safe on any thread.
template <class T>
const FftPlan<T>& fft_plan(int64_t n);

// --- butterflies ---------------------------------------------------------------------------------

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

// The transform of R points, exp(-2 pi i j k / R). With re and im exchanged it is the inverse.
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

// --- passes --------------------------------------------------------------------------------------

// Source and Sink of points in memory.
template <class T>
struct Lines {
  T* data;

  template <int kBytes, class V>
  SAGITTAL_INLINE void get(int64_t i, V& re, V& im) const {
    using S = Simd<T, kBytes>;
    re = S::at(data + 2 * S::kLanes * i), im = S::at(data + 2 * S::kLanes * i + S::kLanes);
  }
  template <int kBytes, class V>
  SAGITTAL_INLINE void put(int64_t i, const V& re, const V& im) const {
    using S = Simd<T, kBytes>;
    S::at(data + 2 * S::kLanes * i) = re, S::at(data + 2 * S::kLanes * i + S::kLanes) = im;
  }
};

// (re, im) times a scalar, or its conjugate.
template <bool kConjugate, class T, class V>
SAGITTAL_INLINE void turn(const T* factor, V& re, V& im) {
  const T a = factor[0], b = kConjugate ? -factor[1] : factor[1];
  const V real = re * a - im * b;
  im = im * a + re * b;
  re = real;
}

template <class T, int R, class Source>
struct ForwardBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const FftPass<T>& pass, const Source& from, T* to) {
    using V = typename Simd<T, kBytes>::Vector;
    const int64_t stride = pass.stride, blocks = pass.blocks;
    const Lines<T> lines{to};
    for (int64_t b = 0; b < blocks; ++b) {
      const T* twiddle = pass.twiddles.data();
      for (int64_t i = b * R * stride, end = i + stride; i < end; ++i, twiddle += 2 * (R - 1)) {
        V re[R], im[R];
#pragma GCC unroll 8
        for (int k = 0; k < R; ++k) from.template get<kBytes>(i + k * stride, re[k], im[k]);
        Butterfly<T, R>::run(re, im);
        lines.template put<kBytes>(i, re[0], im[0]);
#pragma GCC unroll 8
        for (int k = 1; k < R; ++k) {
          turn<false>(twiddle + 2 * (k - 1), re[k], im[k]);
          lines.template put<kBytes>(i + k * stride, re[k], im[k]);
        }
      }
    }
  }
};

template <class T, int R, class Sink>
struct InverseBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const FftPass<T>& pass, T* from, const Sink& to) {
    using V = typename Simd<T, kBytes>::Vector;
    const int64_t stride = pass.stride, blocks = pass.blocks;
    const Lines<T> lines{from};
    for (int64_t b = 0; b < blocks; ++b) {
      const T* twiddle = pass.twiddles.data();
      for (int64_t i = b * R * stride, end = i + stride; i < end; ++i, twiddle += 2 * (R - 1)) {
        V re[R], im[R];
        lines.template get<kBytes>(i, re[0], im[0]);
#pragma GCC unroll 8
        for (int k = 1; k < R; ++k) {
          lines.template get<kBytes>(i + k * stride, re[k], im[k]);
          turn<true>(twiddle + 2 * (k - 1), re[k], im[k]);
        }
        Butterfly<T, R>::run(im, re);
#pragma GCC unroll 8
        for (int k = 0; k < R; ++k) to.template put<kBytes>(i + k * stride, re[k], im[k]);
      }
    }
  }
};

enum class Last { kForward, kInverse, kFilter };

// The last radix, without twiddles: forward, inverse, or there and back with every frequency times
// a vector of `filter` in between.
template <class T, int R, Last kWay>
struct LastBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const FftPass<T>& pass, const T* filter, T* data) {
    using S = Simd<T, kBytes>;
    using V = typename S::Vector;
    const int64_t end = pass.blocks * R;
    const Lines<T> lines{data};
    for (int64_t i = 0; i < end; i += R) {
      V re[R], im[R];
#pragma GCC unroll 8
      for (int k = 0; k < R; ++k) lines.template get<kBytes>(i + k, re[k], im[k]);
      if (kWay != Last::kInverse) Butterfly<T, R>::run(re, im);
      if (kWay == Last::kFilter) {
#pragma GCC unroll 8
        for (int k = 0; k < R; ++k) {
          const V factor = S::at(filter + (i + k) * S::kLanes);
          re[k] *= factor, im[k] *= factor;
        }
      }
      if (kWay != Last::kForward) Butterfly<T, R>::run(im, re);
#pragma GCC unroll 8
      for (int k = 0; k < R; ++k) lines.template put<kBytes>(i + k, re[k], im[k]);
    }
  }
};

// Calls f.template operator()<R>() for the radix of a pass.
template <class F>
void with_radix(int64_t radix, const F& f) {
  switch (radix) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    case 5:
      return f.template operator()<5>();
    case 7:
      return f.template operator()<7>();
    default:
      return f.template operator()<8>();
  }
}

// All forward passes but the last one.
template <class T, class Source>
void fft_forward(const FftPlan<T>& plan, const Source& from, T* data) {
  with_radix(plan.passes[0].radix,
             [&]<int R>() { run_for_isa<ForwardBody<T, R, Source>>(plan.passes[0], from, data); });
  for (size_t p = 1; p + 1 < plan.passes.size(); ++p)
    with_radix(plan.passes[p].radix, [&]<int R>() {
      run_for_isa<ForwardBody<T, R, Lines<T>>>(plan.passes[p], Lines<T>{data}, data);
    });
}

// The last forward and the first inverse pass, or both with a filter (n, lanes) in between.
template <Last kWay, class T>
void fft_last(const FftPlan<T>& plan, const T* filter, T* data) {
  const FftPass<T>& pass = plan.passes.back();
  with_radix(pass.radix, [&]<int R>() { run_for_isa<LastBody<T, R, kWay>>(pass, filter, data); });
}

// All inverse passes but the first one. No factor 1 / n.
template <class T, class Sink>
void fft_inverse(const FftPlan<T>& plan, T* data, const Sink& to) {
  for (size_t p = plan.passes.size() - 2; p > 0; --p)
    with_radix(plan.passes[p].radix, [&]<int R>() {
      run_for_isa<InverseBody<T, R, Lines<T>>>(plan.passes[p], data, Lines<T>{data});
    });
  with_radix(plan.passes[0].radix,
             [&]<int R>() { run_for_isa<InverseBody<T, R, Sink>>(plan.passes[0], data, to); });
}

}  // namespace sagittal

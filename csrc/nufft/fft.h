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
#include "butterflies.h"

namespace sagittal {

// `blocks` blocks of radix * stride points; a butterfly takes points that are `stride` apart.
template <class T>
struct FftPass {
  int64_t radix, blocks, stride;
  std::vector<T> twiddles;  // (stride, radix - 1, 2): exp(-2 pi i j k / (radix stride))
  std::vector<T> roots;     // of a prime radix above 7, (radix, 2): cos and sin of 2 pi k / radix
};

template <class T>
struct FftPlan {
  int64_t n;
  std::vector<FftPass<T>> passes;  // at least two
  std::vector<int64_t> frequency;  // of each position after the forward passes
  std::vector<int64_t> position;   // of each frequency
  std::vector<T> modulation;       // (n, 2): exp(-i pi j / n)
};

// Whether n > 0 has no prime factor above kLargestPrime.
bool fft_fits(int64_t n);

// The plan of a length that fits: made once, kept until the process ends, safe on any thread.
template <class T>
const FftPlan<T>& fft_plan(int64_t n);

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

template <class T, class Source>
struct ForwardBody<T, kAnyPrime, Source> {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const FftPass<T>& pass, const Source& from, T* to) {
    using V = typename Simd<T, kBytes>::Vector;
    const int64_t stride = pass.stride, size = pass.radix;
    const Lines<T> lines{to};
    V re[kLargestPrime], im[kLargestPrime];
    for (int64_t b = 0; b < pass.blocks; ++b) {
      const T* twiddle = pass.twiddles.data();
      for (int64_t i = b * size * stride, end = i + stride; i < end; ++i) {
        for (int64_t k = 0; k < size; ++k) from.template get<kBytes>(i + k * stride, re[k], im[k]);
        any_butterfly(size, pass.roots.data(), re, im);
        lines.template put<kBytes>(i, re[0], im[0]);
        for (int64_t k = 1; k < size; ++k, twiddle += 2) {
          turn<false>(twiddle, re[k], im[k]);
          lines.template put<kBytes>(i + k * stride, re[k], im[k]);
        }
      }
    }
  }
};

template <class T, class Sink>
struct InverseBody<T, kAnyPrime, Sink> {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const FftPass<T>& pass, T* from, const Sink& to) {
    using V = typename Simd<T, kBytes>::Vector;
    const int64_t stride = pass.stride, size = pass.radix;
    const Lines<T> lines{from};
    V re[kLargestPrime], im[kLargestPrime];
    for (int64_t b = 0; b < pass.blocks; ++b) {
      const T* twiddle = pass.twiddles.data();
      for (int64_t i = b * size * stride, end = i + stride; i < end; ++i) {
        lines.template get<kBytes>(i, re[0], im[0]);
        for (int64_t k = 1; k < size; ++k, twiddle += 2) {
          lines.template get<kBytes>(i + k * stride, re[k], im[k]);
          turn<true>(twiddle, re[k], im[k]);
        }
        any_butterfly(size, pass.roots.data(), im, re);
        for (int64_t k = 0; k < size; ++k) to.template put<kBytes>(i + k * stride, re[k], im[k]);
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

// Calls f.template operator()<R>() for the radix of a pass; for a last one, which is never a prime
// above 7, with kLast.
template <bool kLast = false, class F>
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
    case 8:
      return f.template operator()<8>();
    default:
      if constexpr (!kLast) f.template operator()<kAnyPrime>();
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
  with_radix<true>(pass.radix,
                   [&]<int R>() { run_for_isa<LastBody<T, R, kWay>>(pass, filter, data); });
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

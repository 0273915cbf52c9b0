// The Toeplitz normal operator in two dimensions with transforms of our own, on the CPU. The
// specification is sagittal_core/ops/reference.py.
//
// A task is one coil and one of the two phases b0 of the first axis. It transforms columns of
// S x m_b0, a vector of them at a time, convolves every row with both phases of the second axis,
// and transforms back into the result. Tasks run side by side; each waits, column by column, for
// the one before it to have added its part: every sum has one order on any number of threads. A
// task only ever waits for one that was taken before it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>
#include <vector>

#include "../common/isa.h"
#include "../common/tile.h"
#include "fft.h"

namespace sagittal {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}

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

// Lines times m along the axis.
template <class T>
struct Modulated {
  T* data;
  const T* modulation;

  template <int kBytes, class V>
  SAGITTAL_INLINE void get(int64_t i, V& re, V& im) const {
    Lines<T>{data}.template get<kBytes>(i, re, im);
    turn<false>(modulation + 2 * i, re, im);
  }
};

// To `to`, plus conj(m) times `other`.
template <class T>
struct AddModulated {
  T *to, *other;
  const T* modulation;

  template <int kBytes, class V>
  SAGITTAL_INLINE void put(int64_t i, const V& plain_re, const V& plain_im) const {
    V re, im;
    Lines<T>{other}.template get<kBytes>(i, re, im);
    turn<true>(modulation + 2 * i, re, im);
    Lines<T>{to}.template put<kBytes>(i, plain_re + re, plain_im + im);
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

// --- the operator --------------------------------------------------------------------------------

// An unordered wait costs a core: after a while, let others run.
void wait_for(const std::atomic<int64_t>& counter, int64_t value) {
  for (int spin = 0; counter.load(std::memory_order_acquire) < value; ++spin)
    if (spin > 200) std::this_thread::yield();
}

template <class T>
class Normal {
 public:
  Normal(const Tensor& image, const Tensor& maps, const Tensor& kernel, const Tensor& lam,
         T* result)
      : image_(in<T>(image)),
        maps_(in<T>(maps)),
        kernel_(in<T>(kernel)),
        lam_(in<T>(lam)),
        result_(result),
        batch_(image.size(0)),
        coils_(maps.size(1)),
        first_(fft_plan<T>(image.size(1))),
        second_(fft_plan<T>(image.size(2))),
        maps_step_(maps.size(0) == 1 ? 0 : 2 * coils_ * pixels()),
        kernels_(kernel.size(0)),
        lam_step_(lam.size(0) == 1 ? 0 : 1),
        lanes_(vector_bytes() / sizeof(T)),
        columns_((second_.n + lanes_ - 1) / lanes_),
        rows_((first_.n + lanes_ - 1) / lanes_),
        filter_(kernels_ * 4 * rows_ * second_.n * lanes_),
        ready_(kernels_ * 2 * rows_),
        added_(batch_ * columns_) {}

  void run() {
    const int64_t filters = static_cast<int64_t>(ready_.size());
    const int64_t count = filters + batch_ * coils_ * 2;
    const int64_t workers =
        std::min<int64_t>(batch_ * coils_ * 2, torch::stable::get_num_threads());
    // Before the threads start: one that failed would be waited for in vain.
    const Buffer<T> memory(workers * slot_size());
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, workers, 1, [&](int64_t slot, int64_t) {
      T* own = memory.get() + slot * slot_size();
      std::fill(own, own + slot_size(), T(0));
      for (int64_t i = next++; i < count; i = next++)
        i < filters ? prepare(i) : apply(i - filters, own);
    });
  }

 private:
  int64_t pixels() const { return first_.n * second_.n; }
  int64_t square() const { return 2 * lanes_ * lanes_; }
  // One more line than there are, so that columns do not fall into the same sets of a cache.
  int64_t column_step() const { return rows_ * square() + 2 * lanes_; }
  int64_t slot_size() const { return columns_ * (column_step() + 2 * square()); }

  // The part of the kernel for one vector of rows, in the order of their frequencies, rows last.
  void prepare(int64_t index) {
    const T scale = T(1) / static_cast<T>(pixels());
    const int64_t row = index % rows_ * lanes_, used = std::min(lanes_, first_.n - row);
    for (int64_t phase = 0; phase < 2; ++phase) {
      T* to = filter_.get() + (2 * index + phase) * second_.n * lanes_;
      const T* from = kernel_ + (index / rows_ * 2 + phase) * pixels();
      for (int64_t j = 0; j < second_.n; ++j, to += lanes_) {
        const T* column = from + second_.frequency[j];
        for (int64_t i = 0; i < used; ++i)
          to[i] = scale * column[first_.frequency[row + i] * second_.n];
        std::fill(to + used, to + lanes_, T(0));
      }
    }
    ready_[index].store(1, std::memory_order_release);
  }

  void apply(int64_t index, T* own) {
    const int64_t phase = index % 2, coil = index / 2 % coils_, element = index / 2 / coils_;
    const T* map = maps_ + element * maps_step_ + 2 * coil * pixels();
    T* rows = own + columns_ * column_step();
    for (int64_t column = 0; column < columns_; ++column) {
      T* lines = own + column * column_step();
      phase == 0 ? read<false>(element, map, column, lines)
                 : read<true>(element, map, column, lines);
      fft_last<Last::kForward, T>(first_, nullptr, lines);
    }
    const int64_t filter = ((kernels_ == 1 ? 0 : element) * 2 + phase) * rows_;
    for (int64_t row = 0; row < rows_; ++row) {
      wait_for(ready_[filter + row], 1);
      convolve(filter + row, own + row * square(), rows);
    }
    for (int64_t column = 0; column < columns_; ++column) {
      T* lines = own + column * column_step();
      fft_last<Last::kInverse, T>(first_, nullptr, lines);
      std::atomic<int64_t>& added = added_[element * columns_ + column];
      wait_for(added, index % (2 * coils_));
      phase == 0 ? add<false>(element, map, column, coil == 0, lines)
                 : add<true>(element, map, column, false, lines);
      added.store(index % (2 * coils_) + 1, std::memory_order_release);
    }
  }

  int64_t width(int64_t column) const { return std::min(lanes_, second_.n - column * lanes_); }

  template <bool kModulated>
  void read(int64_t element, const T* map, int64_t column, T* lines) {
    const int64_t at = 2 * column * lanes_;
    const Product<T, kModulated> columns{image_ + 2 * element * pixels() + at, map + at,
                                         first_.modulation.data(), 2 * second_.n, width(column)};
    fft_forward(first_, columns, lines);
  }

  template <bool kModulated>
  void add(int64_t element, const T* map, int64_t column, bool begin, T* lines) {
    const int64_t at = 2 * column * lanes_, whole = 2 * element * pixels() + at;
    const AddCoil<T, kModulated> sum{(begin ? image_ : result_) + whole,
                                     map + at,
                                     first_.modulation.data(),
                                     result_ + whole,
                                     begin ? lam_[element * lam_step_] : T(1),
                                     2 * second_.n,
                                     width(column)};
    fft_inverse(first_, lines, sum);
  }

  // A vector of rows, in squares that are a column apart, with both phases of the second axis.
  void convolve(int64_t filter, T* squares, T* plain) {
    T* other = plain + columns_ * square();
    const T* factors = filter_.get() + 2 * filter * second_.n * lanes_;
    const T* modulation = second_.modulation.data();
    run_for_isa<TransposeBody<T, true>>(squares, column_step(), columns_, plain);
    fft_forward(second_, Modulated<T>{plain, modulation}, other);
    fft_last<Last::kFilter>(second_, factors + second_.n * lanes_, other);
    fft_inverse(second_, other, Lines<T>{other});
    fft_forward(second_, Lines<T>{plain}, plain);
    fft_last<Last::kFilter>(second_, factors, plain);
    fft_inverse(second_, plain, AddModulated<T>{plain, other, modulation});
    run_for_isa<TransposeBody<T, false>>(squares, column_step(), columns_, plain);
  }

  const T *image_, *maps_, *kernel_, *lam_;
  T* result_;
  const int64_t batch_, coils_;
  const FftPlan<T>&first_, &second_;
  const int64_t maps_step_, kernels_, lam_step_;
  const int64_t lanes_, columns_, rows_;  // of a vector; vectors of columns and of rows
  const Buffer<T> filter_;                // (kernels, 2, rows_, 2, N1, lanes)
  std::vector<std::atomic<int64_t>> ready_;
  std::vector<std::atomic<int64_t>> added_;  // tasks of every batch element and column so far
};

void check_normal(const Tensor& image, const Tensor& maps, const Tensor& kernel,
                  const Tensor& lam) {
  const ScalarType type = image.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::ComplexFloat || type == ScalarType::ComplexDouble,
                  "image must be complex64 or complex128");
  const ScalarType real =
      type == ScalarType::ComplexDouble ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(
      maps.scalar_type() == type && kernel.scalar_type() == real && lam.scalar_type() == real,
      "maps must have the dtype of image, kernel and lam its real dtype");
  STD_TORCH_CHECK(image.dim() == 3 && maps.dim() == 4 && kernel.dim() == 4 && lam.dim() == 1,
                  "image must be (B, N0, N1), maps (B, C, N0, N1), kernel (B, 4, N0, N1), lam (B)");
  for (const Tensor* t : {&maps, &kernel, &lam})
    STD_TORCH_CHECK(t->size(0) == 1 || t->size(0) == image.size(0),
                    "maps, kernel and lam must have a batch of 1 or of the image");
  for (int64_t axis = 1; axis < 3; ++axis)
    STD_TORCH_CHECK(maps.size(axis + 1) == image.size(axis) &&
                        kernel.size(axis + 1) == image.size(axis) && kernel.size(1) == 4,
                    "maps and kernel do not fit the image");
}

Tensor toeplitz_normal_cpu(const Tensor& image_in, const Tensor& maps_in, const Tensor& kernel_in,
                           const Tensor& lam_in) {
  count_call();
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor maps = torch::stable::contiguous(maps_in);
  const Tensor kernel = torch::stable::contiguous(kernel_in);
  const Tensor lam = torch::stable::contiguous(lam_in);
  check_normal(image, maps, kernel, lam);
  Tensor result = torch::stable::empty_like(image);
  if (image.numel() == 0) return result;
  STD_TORCH_CHECK(fft_fits(image.size(1)) && fft_fits(image.size(2)),
                  "the lengths of image must have no prime factor above 7");
  STD_TORCH_CHECK(maps.size(1) > 0, "maps must have at least one coil");
  if (image.scalar_type() == ScalarType::ComplexDouble)
    Normal<double>(image, maps, kernel, lam, static_cast<double*>(result.data_ptr())).run();
  else
    Normal<float>(image, maps, kernel, lam, static_cast<float*>(result.data_ptr())).run();
  return result;
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("toeplitz_normal", TORCH_BOX(&sagittal::toeplitz_normal_cpu));
}

// The Toeplitz normal operator with transforms of our own, on the CPU. The specification is
// sagittal_core/ops/reference.py.
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
#include <vector>

#include "../common/isa.h"
#include "../common/tile.h"
#include "checks.h"
#include "fft.h"
#include "lines.h"

namespace sagittal {
namespace {

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}

// An unordered wait costs a core: after a while, let others run.
void wait_for(const std::atomic<int64_t>& counter, int64_t value) {
  for (int spin = 0; counter.load(std::memory_order_acquire) < value; ++spin)
    if (spin > 200) std::this_thread::yield();
}

// Blocks of one vector of rows of a plane, (2, N_last, lanes), hold the kernel in the order in
// which the transforms leave the frequencies. In three dimensions every frequency of the first axis
// is a plane of its own, convolved with both phases of the second axis; in two, there is one plane
// whose rows are the frequencies of the first axis.
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
        flat_(image.dim() == 3),
        first_(fft_plan<T>(image.size(1))),
        rows_(fft_plan<T>(image.size(flat_ ? 1 : 2))),
        last_(fft_plan<T>(image.size(flat_ ? 2 : 3))),
        planes_(flat_ ? 1 : first_.n),
        plane_(rows_.n * last_.n),
        pixels_(planes_ * plane_),
        maps_step_(maps.size(0) == 1 ? 0 : 2 * coils_ * pixels_),
        kernels_(kernel.size(0)),
        lam_step_(lam.size(0) == 1 ? 0 : 1),
        lanes_(vector_bytes() / sizeof(T)),
        square_(2 * lanes_ * lanes_),
        across_((last_.n + lanes_ - 1) / lanes_),
        columns_(flat_ ? across_ : rows_.n * across_),
        down_((rows_.n + lanes_ - 1) / lanes_),
        plane_step_(down_ * square_ + 2 * lanes_),
        column_step_(flat_ ? plane_step_ : (first_.n + 1) * 2 * lanes_),
        slot_(columns_ * column_step_ + 2 * across_ * ((flat_ ? 0 : plane_step_) + square_)),
        filter_(kernels_ * (flat_ ? 2 : 4) * planes_ * down_ * 2 * last_.n * lanes_),
        ready_(kernels_ * (flat_ ? 2 : 4) * planes_ * down_),
        added_(batch_ * columns_) {}

  void run() {
    const int64_t blocks = static_cast<int64_t>(ready_.size()), tasks = batch_ * coils_ * 2;
    const int64_t workers = std::min<int64_t>(tasks, torch::stable::get_num_threads());
    // Before the threads start: one that failed would be waited for in vain.
    const Buffer<T> memory(workers * slot_);
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, workers, 1, [&](int64_t slot, int64_t) {
      T* own = memory.get() + slot * slot_;
      std::fill(own, own + slot_, T(0));
      for (int64_t i = next++; i < blocks + tasks; i = next++)
        i < blocks ? prepare(i) : apply(i - blocks, own);
    });
  }

 private:
  void prepare(int64_t block) {
    const T scale = T(1) / static_cast<T>(pixels_);
    const int64_t row = block % down_ * lanes_, used = std::min(lanes_, rows_.n - row);
    const int64_t plane = block / down_ % planes_, phases = block / down_ / planes_;
    for (int64_t phase = 0; phase < 2; ++phase) {
      T* to = filter_.get() + (2 * block + phase) * last_.n * lanes_;
      const T* from = kernel_ + (2 * phases + phase) * pixels_ + first_.frequency[plane] * plane_;
      const T* rows[64 / sizeof(T)];
      for (int64_t i = 0; i < used; ++i) rows[i] = from + rows_.frequency[row + i] * last_.n;
      run_for_isa<ColumnsBody<T>>(rows, used, last_.n, last_.position.data(), scale, to);
    }
    ready_[block].store(1, std::memory_order_release);
  }

  void apply(int64_t task, T* own) {
    const int64_t phase = task % 2, coil = task / 2 % coils_, element = task / 2 / coils_;
    const T* map = maps_ + element * maps_step_ + 2 * coil * pixels_;
    for (int64_t column = 0; column < columns_; ++column) {
      T* lines = own + column * column_step_;
      phase == 0 ? read<false>(element, map, column, lines)
                 : read<true>(element, map, column, lines);
      fft_last<Last::kForward, T>(first_, nullptr, lines);
    }
    T* spare = own + columns_ * column_step_;
    const int64_t phases = (kernels_ == 1 ? 0 : element) * 2 + phase;
    if (flat_)
      convolve_rows(phases * down_, own, column_step_, spare);
    else
      for (int64_t plane = 0; plane < planes_; ++plane)
        convolve_plane(2 * phases, plane, own + 2 * lanes_ * plane, spare);
    for (int64_t column = 0; column < columns_; ++column) {
      T* lines = own + column * column_step_;
      fft_last<Last::kInverse, T>(first_, nullptr, lines);
      std::atomic<int64_t>& added = added_[element * columns_ + column];
      wait_for(added, task % (2 * coils_));
      phase == 0 ? add<false>(element, map, column, coil == 0, lines)
                 : add<true>(element, map, column, false, lines);
      added.store(task % (2 * coils_) + 1, std::memory_order_release);
    }
  }

  // Where a column begins in an image, and how wide it is.
  int64_t start(int64_t column) const {
    return 2 * (column / across_ * last_.n + column % across_ * lanes_);
  }
  int64_t width(int64_t column) const {
    return std::min(lanes_, last_.n - column % across_ * lanes_);
  }

  template <bool kModulated>
  void read(int64_t element, const T* map, int64_t column, T* lines) {
    const int64_t at = start(column), step = 2 * pixels_ / first_.n;
    const Product<T, kModulated> columns{image_ + 2 * element * pixels_ + at, map + at,
                                         first_.modulation.data(), step, width(column)};
    fft_forward(first_, columns, lines);
  }

  template <bool kModulated>
  void add(int64_t element, const T* map, int64_t column, bool begin, T* lines) {
    const int64_t at = start(column), whole = 2 * element * pixels_ + at;
    const AddCoil<T, kModulated> sum{(begin ? image_ : result_) + whole,
                                     map + at,
                                     first_.modulation.data(),
                                     result_ + whole,
                                     begin ? lam_[element * lam_step_] : T(1),
                                     2 * pixels_ / first_.n,
                                     width(column)};
    fft_inverse(first_, lines, sum);
  }

  // A plane whose points are a column apart, with both phases of the second axis.
  void convolve_plane(int64_t phases, int64_t plane, T* points, T* plain) {
    T *other = plain + across_ * plane_step_, *spare = other + across_ * plane_step_;
    const int64_t step = across_ * column_step_;
    const T* modulation = rows_.modulation.data();
    for (int64_t column = 0; column < across_; ++column) {
      const T* from = points + column * column_step_;
      T *a = plain + column * plane_step_, *b = other + column * plane_step_;
      fft_forward(rows_, Apart<T, false>{from, step, nullptr}, a);
      fft_last<Last::kForward, T>(rows_, nullptr, a);
      fft_forward(rows_, Apart<T, true>{from, step, modulation}, b);
      fft_last<Last::kForward, T>(rows_, nullptr, b);
    }
    convolve_rows((phases * planes_ + plane) * down_, plain, plane_step_, spare);
    convolve_rows(((phases + 1) * planes_ + plane) * down_, other, plane_step_, spare);
    for (int64_t column = 0; column < across_; ++column) {
      T *a = plain + column * plane_step_, *b = other + column * plane_step_;
      fft_last<Last::kInverse, T>(rows_, nullptr, b);
      fft_inverse(rows_, b, Lines<T>{b});
      fft_last<Last::kInverse, T>(rows_, nullptr, a);
      fft_inverse(rows_, a, AddModulated<T>{points + column * column_step_, step, b, modulation});
    }
  }

  // All rows of a plane in squares that are `step` apart, with both phases of the last axis.
  void convolve_rows(int64_t block, T* plane, int64_t step, T* plain) {
    T* other = plain + across_ * square_;
    const T* modulation = last_.modulation.data();
    for (int64_t row = 0; row < down_; ++row) {
      wait_for(ready_[block + row], 1);
      T* squares = plane + row * square_;
      const T* filter = filter_.get() + 2 * (block + row) * last_.n * lanes_;
      run_for_isa<TransposeBody<T, true>>(squares, step, across_, plain);
      fft_forward(last_, Apart<T, true>{plain, 2 * lanes_, modulation}, other);
      fft_last<Last::kFilter>(last_, filter + last_.n * lanes_, other);
      fft_inverse(last_, other, Lines<T>{other});
      fft_forward(last_, Lines<T>{plain}, plain);
      fft_last<Last::kFilter>(last_, filter, plain);
      fft_inverse(last_, plain, AddModulated<T>{plain, 2 * lanes_, other, modulation});
      run_for_isa<TransposeBody<T, false>>(squares, step, across_, plain);
    }
  }

  const T *image_, *maps_, *kernel_, *lam_;
  T* result_;
  const int64_t batch_, coils_;
  const bool flat_;  // two dimensions
  const FftPlan<T>&first_, &rows_, &last_;
  const int64_t planes_, plane_, pixels_;  // count, pixels of one, pixels of all
  const int64_t maps_step_, kernels_, lam_step_;
  const int64_t lanes_, square_;             // of a vector; numbers of a square of lines and lanes
  const int64_t across_, columns_, down_;    // vectors of a row; of an image; of rows of a plane
  const int64_t plane_step_, column_step_;   // from a column of a plane, or of all planes, to the
                                             // next: one more line than there are, so that columns
                                             // do not fall into the same sets of a cache
  const int64_t slot_;                       // memory of a thread
  const Buffer<T> filter_;                   // (kernels, phases, planes, down, 2, N_last, lanes)
  std::vector<std::atomic<int64_t>> ready_;  // blocks of it
  std::vector<std::atomic<int64_t>> added_;  // tasks of every batch element and column so far
};

void check_normal(const Tensor& image, const Tensor& maps, const Tensor& kernel,
                  const Tensor& lam) {
  check_complex(image, "image");
  const ScalarType type = image.scalar_type();
  const ScalarType real = wide(image) ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(
      maps.scalar_type() == type && kernel.scalar_type() == real && lam.scalar_type() == real,
      "maps must have the dtype of image, kernel and lam its real dtype");
  const int64_t dims = image.dim();
  STD_TORCH_CHECK((dims == 3 || dims == 4) && maps.dim() == dims + 1 && kernel.dim() == dims + 1 &&
                      lam.dim() == 1,
                  "image must be (B, *N) in 2 or 3 dimensions, maps (B, C, *N), kernel (B, 2^d, "
                  "*N), lam (B)");
  for (const Tensor* t : {&maps, &kernel, &lam})
    STD_TORCH_CHECK(t->size(0) == 1 || t->size(0) == image.size(0),
                    "maps, kernel and lam must have a batch of 1 or of the image");
  for (int64_t axis = 1; axis < dims; ++axis)
    STD_TORCH_CHECK(maps.size(axis + 1) == image.size(axis) &&
                        kernel.size(axis + 1) == image.size(axis) &&
                        kernel.size(1) == (1 << (dims - 1)),
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
  for (int64_t axis = 1; axis < image.dim(); ++axis)
    STD_TORCH_CHECK(fft_fits(image.size(axis)),
                    "the lengths of image must have no prime factor above ", kLargestPrime);
  STD_TORCH_CHECK(maps.size(1) > 0, "maps must have at least one coil");
  if (wide(image))
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

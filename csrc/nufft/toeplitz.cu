// The passes of the Toeplitz normal operator on CUDA: checks, memory and launches. The kernels are
// in toeplitz.cuh.
#include <vector>

#include "../common/launch.h"
#include "checks.h"
#include "toeplitz.cuh"

namespace sagittal {
namespace {

using toeplitz::Matrix;

template <class T>
const Complex<T>* in(const Tensor& t) {
  return static_cast<const Complex<T>*>(t.data_ptr());
}
template <class T>
Complex<T>* out(Tensor& t) {
  return static_cast<Complex<T>*>(t.data_ptr());
}

// The matrix of an image (B, *N) whose first axis is turned.
Matrix checked_matrix(const Tensor& image, const Tensor& maps, const Tensor& modulation) {
  check_fit(image, maps, modulation);
  check_device(maps, image, "maps");
  check_device(modulation, image, "modulation");
  return {image.size(1), rest_of(image)};
}

// x (batch, n, rest), maps (batch or 1, coils, n, rest) or null with coils = 1.
template <class T>
void turn(const Matrix& m, const Tensor& x, const Tensor* maps, int64_t coils,
          const Tensor& modulation, Tensor& y) {
  if (y.numel() == 0) return;
  const int64_t blocks = x.size(0) * coils * m.tiles(toeplitz::kSide);
  const auto kernel = maps ? toeplitz::turn<T, true> : toeplitz::turn<T, false>;
  kernel<<<grid_size(blocks), toeplitz::kThreads, 0, current_stream(x)>>>(
      m, in<T>(x), maps ? in<T>(*maps) : nullptr, coils, maps && maps->size(0) == 1,
      in<T>(modulation), out<T>(y));
  check_cuda(cudaGetLastError());
}

Tensor toeplitz_expand_cuda(const Tensor& image_in, const Tensor& maps_in,
                            const Tensor& modulation_in) {
  const Matrix m = checked_matrix(image_in, maps_in, modulation_in);
  torch::stable::accelerator::DeviceGuard guard(image_in.get_device_index());
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor maps = torch::stable::contiguous(maps_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  const int64_t coils = maps.size(1);
  Tensor result = torch::stable::new_empty(image, turned_shape(image, coils));
  wide(image) ? turn<double>(m, image, &maps, coils, modulation, result)
              : turn<float>(m, image, &maps, coils, modulation, result);
  return result;
}

void check_turn(const Tensor& x, const Tensor& modulation, int64_t n) {
  check_modulation(x, modulation, n);
  check_device(modulation, x, "modulation");
}

Tensor toeplitz_turn_cuda(const Tensor& x_in, const Tensor& modulation_in) {
  STD_TORCH_CHECK(x_in.dim() == 3, "x must be (K, n, rest)");
  check_turn(x_in, modulation_in, x_in.size(1));
  torch::stable::accelerator::DeviceGuard guard(x_in.get_device_index());
  const Tensor x = torch::stable::contiguous(x_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  const Matrix m{x.size(1), x.size(2)};
  Tensor result = torch::stable::new_empty(x, {x.size(0), 2, m.rest, m.n});
  wide(x) ? turn<double>(m, x, nullptr, 1, modulation, result)
          : turn<float>(m, x, nullptr, 1, modulation, result);
  return result;
}

template <class T>
void unturn(const Matrix& m, const Tensor& x, const Tensor& modulation, Tensor& y) {
  if (y.numel() == 0) return;
  const unsigned blocks = grid_size(x.size(0) * m.tiles(toeplitz::kSide));
  toeplitz::unturn<T><<<blocks, toeplitz::kThreads, 0, current_stream(x)>>>(
      m, in<T>(x), in<T>(modulation), out<T>(y));
  check_cuda(cudaGetLastError());
}

Tensor toeplitz_unturn_cuda(const Tensor& x_in, const Tensor& modulation_in) {
  STD_TORCH_CHECK(x_in.dim() == 4 && x_in.size(1) == 2, "x must be (K, 2, rest, n)");
  check_turn(x_in, modulation_in, x_in.size(3));
  torch::stable::accelerator::DeviceGuard guard(x_in.get_device_index());
  const Tensor x = torch::stable::contiguous(x_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  const Matrix m{x.size(3), x.size(2)};
  Tensor result = torch::stable::new_empty(x, {x.size(0), m.n, m.rest});
  wide(x) ? unturn<double>(m, x, modulation, result) : unturn<float>(m, x, modulation, result);
  return result;
}

template <class T>
void reduce(const Matrix& m, const Tensor& coil_images, const Tensor& maps,
            const Tensor& modulation, const Tensor& partial, Tensor& y) {
  if (y.numel() == 0) return;
  const int64_t blocks = partial.size(0) * m.tiles(toeplitz::kAcross);
  toeplitz::reduce<T><<<grid_size(blocks), toeplitz::kThreads, 0, current_stream(partial)>>>(
      m, in<T>(coil_images), in<T>(maps), maps.size(1), maps.size(0) == 1, in<T>(modulation),
      in<T>(partial), out<T>(y));
  check_cuda(cudaGetLastError());
}

Tensor toeplitz_reduce_cuda(const Tensor& coil_images_in, const Tensor& maps_in,
                            const Tensor& modulation_in, const Tensor& partial_in) {
  const Matrix m = checked_matrix(partial_in, maps_in, modulation_in);
  check_turned(coil_images_in, partial_in, maps_in.size(1));
  check_device(coil_images_in, partial_in, "coil_images");
  torch::stable::accelerator::DeviceGuard guard(partial_in.get_device_index());
  const Tensor coil_images = torch::stable::contiguous(coil_images_in);
  const Tensor maps = torch::stable::contiguous(maps_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  const Tensor partial = torch::stable::contiguous(partial_in);
  Tensor result = torch::stable::empty_like(partial);
  wide(partial) ? reduce<double>(m, coil_images, maps, modulation, partial, result)
                : reduce<float>(m, coil_images, maps, modulation, partial, result);
  return result;
}

template <class T, int kPixels>
void filter(const Tensor& spectrum, const Tensor& kernel, int64_t pixels, Tensor& y) {
  const int64_t batch = spectrum.size(0), coils = spectrum.size(1);
  const int64_t each = toeplitz::kThreads * kPixels, chunks = (pixels + each - 1) / each;
  const int64_t groups = (coils + toeplitz::kCoilsAtOnce - 1) / toeplitz::kCoilsAtOnce;
  STD_TORCH_CHECK(groups <= 65535, "toeplitz_filter: too many coils for one launch");
  const dim3 grid(grid_size(batch * chunks), static_cast<unsigned>(groups));
  toeplitz::filter<T, kPixels><<<grid, toeplitz::kThreads, 0, current_stream(spectrum)>>>(
      pixels, coils, kernel.size(0) == 1, static_cast<const T*>(spectrum.data_ptr()),
      static_cast<const T*>(kernel.data_ptr()), static_cast<T*>(y.data_ptr()));
  check_cuda(cudaGetLastError());
}

Tensor toeplitz_filter_cuda(const Tensor& spectrum_in, const Tensor& kernel_in) {
  check_filter(spectrum_in, kernel_in);
  check_device(kernel_in, spectrum_in, "kernel");
  torch::stable::accelerator::DeviceGuard guard(spectrum_in.get_device_index());
  const Tensor spectrum = torch::stable::contiguous(spectrum_in);
  const Tensor kernel = torch::stable::contiguous(kernel_in);
  Tensor result = torch::stable::empty_like(spectrum);
  if (result.numel() == 0) return result;
  const int64_t pixels = kernel.numel() / kernel.size(0);
  bool aligned = pixels % 2 == 0;
  for (const Tensor* t : {&spectrum, &kernel, static_cast<const Tensor*>(&result)})
    aligned = aligned && reinterpret_cast<uintptr_t>(t->data_ptr()) % 16 == 0;
  if (wide(spectrum))
    filter<double, 1>(spectrum, kernel, pixels, result);
  else if (aligned)
    filter<float, 2>(spectrum, kernel, pixels, result);
  else
    filter<float, 1>(spectrum, kernel, pixels, result);
  return result;
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m) {
  m.impl("toeplitz_expand", TORCH_BOX(&sagittal::toeplitz_expand_cuda));
  m.impl("toeplitz_turn", TORCH_BOX(&sagittal::toeplitz_turn_cuda));
  m.impl("toeplitz_filter", TORCH_BOX(&sagittal::toeplitz_filter_cuda));
  m.impl("toeplitz_unturn", TORCH_BOX(&sagittal::toeplitz_unturn_cuda));
  m.impl("toeplitz_reduce", TORCH_BOX(&sagittal::toeplitz_reduce_cuda));
}

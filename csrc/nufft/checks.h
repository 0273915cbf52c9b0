// What the operators of this family ask of their arguments, the same on the CPU and on CUDA: types
// and shapes. That all tensors are on one device, and CUDA's own limits, are the launchers' checks.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <vector>

namespace sagittal {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whether a complex tensor is of double precision.
inline bool wide(const Tensor& t) { return t.scalar_type() == ScalarType::ComplexDouble; }

inline void check_complex(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::ComplexFloat || wide(t), name,
                  " must be complex64 or complex128");
}

// --- gridding ---

inline void check_plan(const Tensor& points, const Tensor& order, const Tensor& offsets,
                       const Tensor& coefficients, int64_t widest) {
  STD_TORCH_CHECK(points.dim() == 3 && (points.size(2) == 2 || points.size(2) == 3),
                  "points must be (T, M, 2) or (T, M, 3)");
  STD_TORCH_CHECK(points.scalar_type() == ScalarType::Double &&
                      coefficients.scalar_type() == ScalarType::Double,
                  "points and coefficients must be float64");
  STD_TORCH_CHECK(
      order.scalar_type() == ScalarType::Long && offsets.scalar_type() == ScalarType::Long,
      "order and offsets must be int64");
  STD_TORCH_CHECK(
      order.dim() == 2 && order.size(0) == points.size(0) && order.size(1) == points.size(1),
      "order must be (T, M)");
  STD_TORCH_CHECK(coefficients.dim() == 2 && coefficients.size(0) >= 1 &&
                      coefficients.size(1) >= 1 && coefficients.size(1) <= widest,
                  "coefficients must be (degree + 1, width) with width <= ", widest);
}

// Grid and tiles (d,) of a kernel of this width, and offsets; after check_plan.
inline void check_tiles(const Tensor& points, const Tensor& offsets, int64_t width,
                        const std::vector<int64_t>& grid, const std::vector<int64_t>& tiles) {
  const int64_t dims = points.size(2);
  STD_TORCH_CHECK(static_cast<int64_t>(grid.size()) == dims, "grid and points differ in d");
  STD_TORCH_CHECK(static_cast<int64_t>(tiles.size()) == dims, "tiles and points differ in d");
  bool fits = offsets.dim() == 2 && offsets.size(0) == points.size(0);
  int64_t count = 1;
  for (int64_t axis = 0; axis < dims; ++axis) {
    const int64_t n = grid[axis], t = tiles[axis];
    STD_TORCH_CHECK(n >= width, "grid is smaller than the kernel");
    STD_TORCH_CHECK(t == 1 || (t > 0 && t % 2 == 0 && n / t > width),
                    "tiles must be 1, or even in number and wider than the kernel");
    fits = fits && count <= offsets.size(1) / t;  // a product that can't overflow
    if (fits) count *= t;
  }
  STD_TORCH_CHECK(fits && offsets.size(1) == count + 1, "offsets must be (T, number of tiles + 1)");
}

inline void check_samples(const Tensor& samples, const Tensor& points) {
  check_complex(samples, "samples");
  STD_TORCH_CHECK(samples.dim() == 3 && points.dim() == 3 && samples.size(0) == points.size(0) &&
                      samples.size(2) == points.size(1),
                  "samples must be (T, C, M) for points (T, M, d)");
}

inline void check_grid(const Tensor& grid, const Tensor& points) {
  check_complex(grid, "grid");
  STD_TORCH_CHECK(
      points.dim() == 3 && grid.dim() == points.size(2) + 2 && grid.size(0) == points.size(0),
      "grid must be (T, C, *grid) for points (T, M, d)");
}

// --- the Toeplitz operator ---

// An image (B, *N) whose first axis is turned, with its maps and modulation.
inline void check_fit(const Tensor& image, const Tensor& maps, const Tensor& modulation) {
  check_complex(image, "image");
  STD_TORCH_CHECK(
      maps.scalar_type() == image.scalar_type() && modulation.scalar_type() == image.scalar_type(),
      "image, maps and modulation must have one dtype");
  STD_TORCH_CHECK(image.dim() >= 3 && maps.dim() == image.dim() + 1 && modulation.dim() == 1 &&
                      modulation.size(0) == image.size(1),
                  "image must be (B, *N), maps (B, C, *N), modulation (N0)");
  STD_TORCH_CHECK(maps.size(0) == 1 || maps.size(0) == image.size(0),
                  "maps must have a batch of 1 or of the image");
  for (int64_t axis = 1; axis < image.dim(); ++axis)
    STD_TORCH_CHECK(image.size(axis) == maps.size(axis + 1), "image and maps differ in N");
}

// Pixels of an image (B, *N) beside its first axis: N1 * ...
inline int64_t rest_of(const Tensor& image) {
  int64_t rest = 1;
  for (int64_t axis = 2; axis < image.dim(); ++axis) rest *= image.size(axis);
  return rest;
}

// Turned coil images of an image: (B, C, 2, N1, .., N0).
inline std::vector<int64_t> turned_shape(const Tensor& image, int64_t coils) {
  std::vector<int64_t> shape = {image.size(0), coils, 2};
  for (int64_t axis = 2; axis < image.dim(); ++axis) shape.push_back(image.size(axis));
  shape.push_back(image.size(1));
  return shape;
}

inline void check_turned(const Tensor& coil_images, const Tensor& partial, int64_t coils) {
  const std::vector<int64_t> shape = turned_shape(partial, coils);
  bool fits = coil_images.scalar_type() == partial.scalar_type() &&
              coil_images.dim() == static_cast<int64_t>(shape.size());
  for (int64_t axis = 0; fits && axis < coil_images.dim(); ++axis)
    fits = coil_images.size(axis) == shape[axis];
  STD_TORCH_CHECK(fits, "coil_images must be (B, C, 2, N1, .., N0) of the dtype of partial");
}

inline void check_modulation(const Tensor& x, const Tensor& modulation, int64_t n) {
  check_complex(x, "x");
  STD_TORCH_CHECK(modulation.scalar_type() == x.scalar_type() && modulation.dim() == 1 &&
                      modulation.size(0) == n,
                  "modulation must be (n,) of the dtype of x");
}

inline void check_filter(const Tensor& spectrum, const Tensor& kernel) {
  check_complex(spectrum, "spectrum");
  STD_TORCH_CHECK(kernel.scalar_type() == (wide(spectrum) ? ScalarType::Double : ScalarType::Float),
                  "kernel must be the real dtype of spectrum");
  STD_TORCH_CHECK(kernel.dim() == spectrum.dim() - 1 &&
                      (kernel.size(0) == 1 || kernel.size(0) == spectrum.size(0)),
                  "kernel must be (B or 1, *N) for spectrum (B, C, *N)");
  for (int64_t axis = 1; axis < kernel.dim(); ++axis)
    STD_TORCH_CHECK(kernel.size(axis) == spectrum.size(axis + 1),
                    "kernel and spectrum differ in N");
}

// --- conjugate gradients ---

inline void check_step(const Tensor& x, const Tensor& r, const Tensor& p, const Tensor& q,
                       const Tensor& rs, const Tensor& stop) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "x must be float32 or float64");
  STD_TORCH_CHECK(x.dim() == 2, "x must be (B, n)");
  for (const Tensor* t : {&r, &p, &q})
    STD_TORCH_CHECK(t->scalar_type() == type && t->dim() == 2 && t->size(0) == x.size(0) &&
                        t->size(1) == x.size(1),
                    "r, p and q must have the shape and dtype of x");
  for (const Tensor* t : {&rs, &stop})
    STD_TORCH_CHECK(t->scalar_type() == type && t->dim() == 1 && t->size(0) == x.size(0),
                    "rs and stop must be (B,) of the dtype of x");
}

}  // namespace sagittal

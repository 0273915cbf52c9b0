// spread and interp on the CPU. The specification is sagittal_core/ops/reference.py.
//
// A 2-D grid (N0, N1) is treated as (N0, 1, N1), so that slabs always cut the first dimension and
// a footprint is a stack of contiguous lines. Lines are W >= width cells long, the rest with weight
// zero, which makes their length a compile-time constant.
//
// spread gives each slab of rows of the grid one owner, which visits the points of its own and of
// the two neighbouring slabs in sorted order and adds only to its own rows. No two threads write
// one cell and the order of additions is fixed: the result has the same bits on any thread count.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "../common/isa.h"

namespace sagittal {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kMaxWidth = 16;
constexpr int64_t kSlabRows = 16;  // SLAB_ROWS in gridding.py

template <class T>
struct Geometry {
  int64_t coils, count, dims;
  int64_t size[3];       // cells; size[1] == 1 in two dimensions
  int width[3];          // footprint; width[1] == 1 in two dimensions
  int rows;              // polynomial coefficients per cell
  const T* table;        // (rows, W), zero beyond the width
  const double* points;  // (count, dims) of one frame
  const int64_t* order;  // (count) of one frame
  int64_t slabs;
  const int64_t* offsets;  // (slabs + 1) of one frame
};

template <class T, int W>
struct Footprint {
  int64_t first[3];
  T weight[3][W];
};

template <class T, int W>
SAGITTAL_INLINE void axis_weights(const Geometry<T>& g, double u, int width, int64_t& first,
                                  T* out) {
  const double start = std::ceil(u - 0.5 * width);
  const T z = static_cast<T>(2 * (start - u + 0.5 * width) - 1);
  first = static_cast<int64_t>(start);
  for (int j = 0; j < W; ++j) out[j] = g.table[j];
  for (int k = 1; k < g.rows; ++k)
    for (int j = 0; j < W; ++j) out[j] = out[j] * z + g.table[k * W + j];
}

template <class T, int W>
SAGITTAL_INLINE void footprint(const Geometry<T>& g, const double* u, Footprint<T, W>& f) {
  axis_weights<T, W>(g, u[0], g.width[0], f.first[0], f.weight[0]);
  if (g.dims == 3) {
    axis_weights<T, W>(g, u[1], g.width[1], f.first[1], f.weight[1]);
  } else {
    f.first[1] = 0;
    f.weight[1][0] = 1;
  }
  axis_weights<T, W>(g, u[g.dims - 1], g.width[2], f.first[2], f.weight[2]);
}

SAGITTAL_INLINE int64_t wrap(int64_t index, int64_t size) {
  return index < 0 ? index + size : index >= size ? index - size : index;
}

// Adds the points of the slab and its neighbours to rows [low, high).
template <class T, int W>
SAGITTAL_INLINE void spread_body(const Geometry<T>& g, const T* samples, T* grid, int64_t slab) {
  const int64_t low = slab * kSlabRows;
  const int64_t high = slab + 1 == g.slabs ? g.size[0] : low + kSlabRows;
  const int64_t plane = g.size[0] * g.size[1] * g.size[2];
  int64_t near[3] = {wrap(slab - 1, g.slabs), slab, wrap(slab + 1, g.slabs)};
  const int neighbours = g.slabs >= 3 ? 3 : static_cast<int>(g.slabs);
  if (neighbours < 3) near[0] = 0, near[1] = 1;
  Footprint<T, W> f;
  T line[2 * W];
  for (int b = 0; b < neighbours; ++b) {
    for (int64_t i = g.offsets[near[b]]; i < g.offsets[near[b] + 1]; ++i) {
      const int64_t m = g.order[i];
      const double* u = g.points + m * g.dims;
      const int64_t start = static_cast<int64_t>(std::ceil(u[0] - 0.5 * g.width[0]));
      bool touches = false;
      for (int j = 0; j < g.width[0]; ++j) {
        const int64_t row = wrap(start + j, g.size[0]);
        touches |= row >= low && row < high;
      }
      if (!touches) continue;
      footprint<T, W>(g, u, f);
      const bool inside = f.first[2] >= 0 && f.first[2] + W <= g.size[2];
      for (int64_t c = 0; c < g.coils; ++c) {
        const T re = samples[2 * (c * g.count + m)], im = samples[2 * (c * g.count + m) + 1];
        for (int k = 0; k < W; ++k) {
          line[2 * k] = f.weight[2][k] * re;
          line[2 * k + 1] = f.weight[2][k] * im;
        }
        for (int j = 0; j < g.width[0]; ++j) {
          const int64_t row = wrap(f.first[0] + j, g.size[0]);
          if (row < low || row >= high) continue;
          for (int l = 0; l < g.width[1]; ++l) {
            const T scale = f.weight[0][j] * f.weight[1][l];
            const int64_t column = wrap(f.first[1] + l, g.size[1]);
            T* target = grid + 2 * (c * plane + (row * g.size[1] + column) * g.size[2]);
            if (inside) {
              T* cells = target + 2 * f.first[2];
              for (int k = 0; k < 2 * W; ++k) cells[k] += scale * line[k];
            } else {
              for (int k = 0; k < g.width[2]; ++k) {
                T* cell = target + 2 * wrap(f.first[2] + k, g.size[2]);
                cell[0] += scale * line[2 * k];
                cell[1] += scale * line[2 * k + 1];
              }
            }
          }
        }
      }
    }
  }
}

// Evaluates the points order[begin:end].
template <class T, int W>
SAGITTAL_INLINE void interp_body(const Geometry<T>& g, const T* grid, T* samples, int64_t begin,
                                 int64_t end) {
  const int64_t plane = g.size[0] * g.size[1] * g.size[2];
  Footprint<T, W> f;
  T sum[2 * W];
  for (int64_t i = begin; i < end; ++i) {
    const int64_t m = g.order[i];
    footprint<T, W>(g, g.points + m * g.dims, f);
    const bool inside = f.first[2] >= 0 && f.first[2] + W <= g.size[2];
    for (int64_t c = 0; c < g.coils; ++c) {
      for (int k = 0; k < 2 * W; ++k) sum[k] = 0;
      for (int j = 0; j < g.width[0]; ++j) {
        const int64_t row = wrap(f.first[0] + j, g.size[0]);
        for (int l = 0; l < g.width[1]; ++l) {
          const T scale = f.weight[0][j] * f.weight[1][l];
          const int64_t column = wrap(f.first[1] + l, g.size[1]);
          const T* source = grid + 2 * (c * plane + (row * g.size[1] + column) * g.size[2]);
          if (inside) {
            const T* cells = source + 2 * f.first[2];
            for (int k = 0; k < 2 * W; ++k) sum[k] += scale * cells[k];
          } else {
            for (int k = 0; k < g.width[2]; ++k) {
              const T* cell = source + 2 * wrap(f.first[2] + k, g.size[2]);
              sum[2 * k] += scale * cell[0];
              sum[2 * k + 1] += scale * cell[1];
            }
          }
        }
      }
      T re = 0, im = 0;
      for (int k = 0; k < g.width[2]; ++k) {
        re += f.weight[2][k] * sum[2 * k];
        im += f.weight[2][k] * sum[2 * k + 1];
      }
      samples[2 * (c * g.count + m)] = re;
      samples[2 * (c * g.count + m) + 1] = im;
    }
  }
}

SAGITTAL_VARIANTS(spread_kernel, spread_body,
                  (const Geometry<T>& g, const T* samples, T* grid, int64_t slab),
                  (g, samples, grid, slab))
SAGITTAL_VARIANTS(interp_kernel, interp_body,
                  (const Geometry<T>& g, const T* grid, T* samples, int64_t begin, int64_t end),
                  (g, grid, samples, begin, end))

template <class T, int W>
void launch_spread(const Geometry<T>& first, int64_t frames, const T* samples, T* grid) {
  const auto kernel = spread_kernel<T, W>();
  const int64_t plane = first.size[0] * first.size[1] * first.size[2];
  torch::stable::parallel_for(0, frames * first.slabs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t frame = task / first.slabs;
      Geometry<T> g = first;
      g.points += frame * g.count * g.dims;
      g.order += frame * g.count;
      g.offsets += frame * (g.slabs + 1);
      kernel(g, samples + 2 * frame * g.coils * g.count, grid + 2 * frame * g.coils * plane,
             task % g.slabs);
    }
  });
}

template <class T, int W>
void launch_interp(const Geometry<T>& first, int64_t frames, const T* grid, T* samples) {
  const auto kernel = interp_kernel<T, W>();
  const int64_t plane = first.size[0] * first.size[1] * first.size[2];
  for (int64_t frame = 0; frame < frames; ++frame) {
    Geometry<T> g = first;
    g.points += frame * g.count * g.dims;
    g.order += frame * g.count;
    const T* source = grid + 2 * frame * g.coils * plane;
    T* target = samples + 2 * frame * g.coils * g.count;
    torch::stable::parallel_for(0, g.count, 512, [&](int64_t begin, int64_t end) {
      kernel(g, source, target, begin, end);
    });
  }
}

// The tensors of a plan, held while raw pointers into them are in use.
struct Plan {
  Tensor points, order, offsets, coefficients;

  Plan(const Tensor& p, const Tensor& o, const Tensor& s, const Tensor& c)
      : points(torch::stable::contiguous(p)),
        order(torch::stable::contiguous(o)),
        offsets(torch::stable::contiguous(s)),
        coefficients(torch::stable::contiguous(c)) {
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
                        coefficients.size(1) >= 1 && coefficients.size(1) <= kMaxWidth,
                    "coefficients must be (degree + 1, width) with width <= 16");
  }

  int padded_width() const {
    const int64_t width = coefficients.size(1);
    return width <= 4 ? 4 : width <= 8 ? 8 : 16;
  }

  template <class T>
  Geometry<T> geometry(int64_t coils, const std::vector<int64_t>& grid,
                       std::vector<T>& table) const {
    Geometry<T> g;
    g.coils = coils;
    g.count = points.size(1);
    g.dims = points.size(2);
    const int width = static_cast<int>(coefficients.size(1)), padded = padded_width();
    STD_TORCH_CHECK(static_cast<int64_t>(grid.size()) == g.dims, "grid and points differ in d");
    for (int64_t n : grid) STD_TORCH_CHECK(n >= width, "grid is smaller than the kernel");
    g.size[0] = grid[0], g.size[1] = g.dims == 3 ? grid[1] : 1, g.size[2] = grid[g.dims - 1];
    g.width[0] = g.width[2] = width, g.width[1] = g.dims == 3 ? width : 1;
    g.slabs = std::max<int64_t>(1, grid[0] / kSlabRows);
    STD_TORCH_CHECK(
        offsets.dim() == 2 && offsets.size(0) == points.size(0) && offsets.size(1) == g.slabs + 1,
        "offsets must be (T, slabs + 1)");
    g.rows = static_cast<int>(coefficients.size(0));
    table.assign(static_cast<size_t>(g.rows) * padded, T(0));
    const double* from = static_cast<const double*>(coefficients.data_ptr());
    for (int k = 0; k < g.rows; ++k)
      for (int j = 0; j < width; ++j) table[k * padded + j] = static_cast<T>(from[k * width + j]);
    g.table = table.data();
    g.points = static_cast<const double*>(points.data_ptr());
    g.order = static_cast<const int64_t*>(order.data_ptr());
    g.offsets = static_cast<const int64_t*>(offsets.data_ptr());
    return g;
  }
};

template <class T>
void spread_typed(const Plan& plan, const Tensor& samples, const std::vector<int64_t>& shape,
                  Tensor& grid) {
  std::vector<T> table;
  const Geometry<T> g = plan.geometry<T>(samples.size(1), shape, table);
  const auto run = plan.padded_width() == 4   ? &launch_spread<T, 4>
                   : plan.padded_width() == 8 ? &launch_spread<T, 8>
                                              : &launch_spread<T, 16>;
  run(g, samples.size(0), static_cast<const T*>(samples.data_ptr()),
      static_cast<T*>(grid.data_ptr()));
}

template <class T>
void interp_typed(const Plan& plan, const Tensor& grid, const std::vector<int64_t>& shape,
                  Tensor& samples) {
  std::vector<T> table;
  const Geometry<T> g = plan.geometry<T>(grid.size(1), shape, table);
  const auto run = plan.padded_width() == 4   ? &launch_interp<T, 4>
                   : plan.padded_width() == 8 ? &launch_interp<T, 8>
                                              : &launch_interp<T, 16>;
  run(g, grid.size(0), static_cast<const T*>(grid.data_ptr()), static_cast<T*>(samples.data_ptr()));
}

bool is_double(const Tensor& t, const char* name) {
  const auto type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::ComplexFloat || type == ScalarType::ComplexDouble, name,
                  " must be complex64 or complex128");
  return type == ScalarType::ComplexDouble;
}

Tensor spread_cpu(const Tensor& samples_in, const Tensor& points, const Tensor& order,
                  const Tensor& offsets, const Tensor& coefficients,
                  std::vector<int64_t> grid_shape) {
  count_call();
  const Tensor samples = torch::stable::contiguous(samples_in);
  const Plan plan(points, order, offsets, coefficients);
  STD_TORCH_CHECK(samples.dim() == 3 && samples.size(0) == plan.points.size(0) &&
                      samples.size(2) == plan.points.size(1),
                  "samples must be (T, C, M) for points (T, M, d)");
  std::vector<int64_t> shape = {samples.size(0), samples.size(1)};
  shape.insert(shape.end(), grid_shape.begin(), grid_shape.end());
  Tensor grid = torch::stable::new_zeros(samples, shape);
  if (is_double(samples, "samples"))
    spread_typed<double>(plan, samples, grid_shape, grid);
  else
    spread_typed<float>(plan, samples, grid_shape, grid);
  return grid;
}

Tensor interp_cpu(const Tensor& grid_in, const Tensor& points, const Tensor& order,
                  const Tensor& offsets, const Tensor& coefficients) {
  count_call();
  const Tensor grid = torch::stable::contiguous(grid_in);
  const Plan plan(points, order, offsets, coefficients);
  STD_TORCH_CHECK(grid.dim() == plan.points.size(2) + 2 && grid.size(0) == plan.points.size(0),
                  "grid must be (T, C, *grid) for points (T, M, d)");
  std::vector<int64_t> shape;
  for (int64_t axis = 2; axis < grid.dim(); ++axis) shape.push_back(grid.size(axis));
  Tensor samples =
      torch::stable::new_empty(grid, {grid.size(0), grid.size(1), plan.points.size(1)});
  if (is_double(grid, "grid"))
    interp_typed<double>(plan, grid, shape, samples);
  else
    interp_typed<float>(plan, grid, shape, samples);
  return samples;
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("spread", TORCH_BOX(&sagittal::spread_cpu));
  m.impl("interp", TORCH_BOX(&sagittal::interp_cpu));
}

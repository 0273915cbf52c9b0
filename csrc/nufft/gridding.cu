// spread and interp on CUDA: checks, memory and launches. The kernels are in gridding.cuh.
#include <limits>
#include <vector>

#include "../common/launch.h"
#include "checks.h"
#include "gridding.cuh"

namespace sagittal {
namespace {

using gridding::Batch;
using gridding::Layout;

constexpr int64_t kMost = std::numeric_limits<int>::max();

// The tensors of a plan, held while raw pointers into them are in use.
struct Plan {
  Tensor points, order, offsets, coefficients, faults;
  gridding::Plan raw;

  Plan(const Tensor& data, const Tensor& p, const Tensor& o, const Tensor& s, const Tensor& c,
       const std::vector<int64_t>& grid, const std::vector<int64_t>& tiles)
      : points(torch::stable::contiguous(p)),
        order(torch::stable::contiguous(o)),
        offsets(torch::stable::contiguous(s)),
        coefficients(torch::stable::contiguous(c)),
        faults(torch::stable::new_zeros(o, {1})),  // 8 bytes, for Faults
        raw() {
    for (const Tensor* t : {&p, &o, &s, &c})
      check_device(*t, data, "points, order, offsets and coefficients");
    check_plan(points, order, offsets, coefficients, gridding::kMaxWidth);
    STD_TORCH_CHECK(coefficients.size(0) <= gridding::kMaxRows,
                    "coefficients must be of a degree below ", gridding::kMaxRows, " for CUDA");
    raw.frames = points.size(0), raw.count = points.size(1), raw.coils = data.size(1);
    raw.dims = static_cast<int>(points.size(2));
    raw.rows = static_cast<int>(coefficients.size(0));
    raw.width = static_cast<int>(coefficients.size(1));
    check_tiles(points, offsets, raw.width, grid, tiles);
    set_axes(grid, tiles);
    raw.points = static_cast<const double*>(points.data_ptr());
    raw.order = static_cast<const int64_t*>(order.data_ptr());
    raw.offsets = static_cast<const int64_t*>(offsets.data_ptr());
    raw.coefficients = static_cast<const double*>(coefficients.data_ptr());
    raw.faults = static_cast<gridding::Faults*>(faults.data_ptr());
  }

  void set_axes(const std::vector<int64_t>& grid, const std::vector<int64_t>& tiles) {
    const int64_t dims = raw.dims;
    int64_t cells = 1, all_tiles = 1;  // of the largest tile with its halo, at most 8 packs a cell
    for (int64_t axis = 0; axis < dims; ++axis) {
      const int64_t n = grid[axis], t = tiles[axis];
      STD_TORCH_CHECK(n <= kMost / t && (cells *= n / t + 1 + raw.width) <= kMost / 8 &&
                          (all_tiles *= t) <= kMost,
                      "grid and tiles are too large for CUDA");
      STD_TORCH_CHECK(axis + 1 < dims || n / t + 1 + raw.width <= gridding::kLongestRow,
                      "tiles along the last axis must be shorter for CUDA");
    }
    const auto third = [dims](const std::vector<int64_t>& of, int* to) {
      to[0] = static_cast<int>(of[0]), to[2] = static_cast<int>(of[dims - 1]);
      to[1] = dims == 3 ? static_cast<int>(of[1]) : 1;
    };
    third(grid, raw.size);
    third(tiles, raw.tiles);
  }

  // What a kernel may have found. An error must be raised here, not later: waits for the stream.
  void check_faults(cudaStream_t stream) const {
    const gridding::Faults seen = read_back(raw.faults, stream);
    STD_TORCH_CHECK(seen.offsets == 0, "offsets must rise from 0 to the number of points");
    STD_TORCH_CHECK(seen.points == 0,
                    "order and offsets do not sort these points into these tiles");
  }
};

void check_counts(const Layout& l) {
  STD_TORCH_CHECK(l.lanes <= kMost && l.slots <= kMost, "points, frames or coils are too many");
}

// More than 48 KB of shared memory has to be asked for; always as much, as threads may race.
template <class Kernel>
void allow_shared(Kernel* kernel, const Layout& l) {
  STD_TORCH_CHECK(l.bytes <= gridding::kMostShared, "gridding: ", l.bytes,
                  " bytes of shared memory are too many");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(gridding::kMostShared)));
}

template <class T, int kCoils, int kDims>
void spread(const gridding::Plan& g, const Tensor& samples, Tensor& grid, cudaStream_t stream) {
  using Pack = Numbers<T, 2 * kCoils>;
  const Layout l = gridding::make_layout<T>(g, true);
  check_counts(l);
  if (l.lanes == 0) return;
  const int64_t bytes = l.batch[0] * l.batch[1] * l.cells * l.packs * sizeof(Pack);
  Tensor room = torch::stable::new_empty(samples, {bytes}, ScalarType::Byte);
  Pack* const sums = static_cast<Pack*>(room.data_ptr());
  const auto add = gridding::spread_slots<T, kCoils, kDims>;
  allow_shared(add, l);
  gridding::for_batches(l, [&](const Batch& batch, int64_t lanes) {
    const dim3 slots(grid_size(batch.slots), lanes, l.boxes[0] * l.boxes[1]);
    add<<<slots, l.threads, l.bytes, stream>>>(
        g, l, batch, static_cast<const Complex<T>*>(samples.data_ptr()), sums);
    check_cuda(cudaGetLastError());
    const dim3 tiles(grid_size(g.tile_count()), lanes);
    gridding::join_slots<T, kCoils, kDims><<<tiles, gridding::kThreads, 0, stream>>>(
        g, l, batch, sums, static_cast<Complex<T>*>(grid.data_ptr()));
    check_cuda(cudaGetLastError());
  });
}

template <class T, int kCoils, int kDims, int kWidth>
void interp(const gridding::Plan& g, const Tensor& grid, Tensor& samples, cudaStream_t stream) {
  const Layout l = gridding::make_layout<T>(g, false);
  check_counts(l);
  const auto gather = gridding::interp_slots<T, kCoils, kDims, kWidth>;
  allow_shared(gather, l);
  gridding::for_lanes(l, [&](const Batch& batch, int64_t lanes) {
    for (int part = 0; part < l.boxes[0] * l.boxes[1]; ++part) {
      const dim3 slots(grid_size(l.slots), lanes);
      gather<<<slots, l.threads, l.bytes, stream>>>(g, l, batch, part,
                                                    static_cast<const Complex<T>*>(grid.data_ptr()),
                                                    static_cast<Complex<T>*>(samples.data_ptr()));
      check_cuda(cudaGetLastError());
    }
  });
}

template <class T, int kCoils, int kDims>
void interp(const gridding::Plan& g, const Tensor& grid, Tensor& samples, cudaStream_t stream) {
  if (g.width <= 4)
    interp<T, kCoils, kDims, 4>(g, grid, samples, stream);
  else if (g.width <= 8)
    interp<T, kCoils, kDims, 8>(g, grid, samples, stream);
  else
    interp<T, kCoils, kDims, 16>(g, grid, samples, stream);
}

template <class T, int kCoils, bool kSpread>
void run(const Plan& plan, const Tensor& data, Tensor& result) {
  const gridding::Plan& g = plan.raw;
  if (g.frames == 0) return;
  const cudaStream_t stream = current_stream(data);
  const int64_t edges = g.frames * (g.tile_count() + int64_t(1));
  const int64_t blocks = gridding::ceil_div(edges, gridding::kThreads);
  gridding::check_offsets<<<grid_size(blocks), gridding::kThreads, 0, stream>>>(g);
  check_cuda(cudaGetLastError());
  const auto launch = kSpread ? (g.dims == 2 ? spread<T, kCoils, 2> : spread<T, kCoils, 3>)
                              : (g.dims == 2 ? interp<T, kCoils, 2> : interp<T, kCoils, 3>);
  launch(g, data, result, stream);
  plan.check_faults(stream);
}

template <bool kSpread>
void run(const Plan& plan, const Tensor& data, Tensor& result) {
  if (wide(data))
    run<double, 1, kSpread>(plan, data, result);
  else if (gridding::pack_coils<float>(data.size(1)) == 2)
    run<float, 2, kSpread>(plan, data, result);
  else
    run<float, 1, kSpread>(plan, data, result);
}

Tensor spread_cuda(const Tensor& samples_in, const Tensor& points, const Tensor& order,
                   const Tensor& offsets, const Tensor& coefficients,
                   std::vector<int64_t> grid_shape, std::vector<int64_t> tiles) {
  check_samples(samples_in, points);
  torch::stable::accelerator::DeviceGuard guard(samples_in.get_device_index());
  const Tensor samples = torch::stable::contiguous(samples_in);
  const Plan plan(samples, points, order, offsets, coefficients, grid_shape, tiles);
  std::vector<int64_t> shape = {samples.size(0), samples.size(1)};
  shape.insert(shape.end(), grid_shape.begin(), grid_shape.end());
  Tensor grid = torch::stable::new_empty(samples, shape);
  run<true>(plan, samples, grid);
  return grid;
}

Tensor interp_cuda(const Tensor& grid_in, const Tensor& points, const Tensor& order,
                   const Tensor& offsets, const Tensor& coefficients, std::vector<int64_t> tiles) {
  check_grid(grid_in, points);
  torch::stable::accelerator::DeviceGuard guard(grid_in.get_device_index());
  const Tensor grid = torch::stable::contiguous(grid_in);
  std::vector<int64_t> shape;
  for (int64_t axis = 2; axis < grid.dim(); ++axis) shape.push_back(grid.size(axis));
  const Plan plan(grid, points, order, offsets, coefficients, shape, tiles);
  Tensor samples = torch::stable::new_empty(grid, {grid.size(0), grid.size(1), plan.raw.count});
  run<false>(plan, grid, samples);
  return samples;
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m) {
  m.impl("spread", TORCH_BOX(&sagittal::spread_cuda));
  m.impl("interp", TORCH_BOX(&sagittal::interp_cuda));
}

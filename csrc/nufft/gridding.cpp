// spread and interp on the CPU. The specification is sagittal_core/ops/reference.py.
//
// The grid is cut into tiles. The points of a tile work on a private copy of the tile and its halo,
// in which the coils are innermost (gridding.h); interp fills it from the grid, spread adds it
// back. A 2-D grid (N0, N1) is treated as (N0, 1, N1).
//
// spread adds tiles back in two colours an axis, even tiles before odd ones: tiles of one colour
// never share a cell, and within one colour no cell is added to twice. So every cell is the sum of
// the same numbers in the same order, and has the same bits on any thread count.
#include "gridding.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "checks.h"

namespace sagittal {
namespace {

constexpr int kLineBytes = 64;  // reals of all coils of a pass at one cell
constexpr int kSlack = 64;      // reals after a buffer's last cell

template <class T>
struct Geometry {
  int64_t coils, count, frames;
  int64_t size[3], tiles[3];  // size[1] == tiles[1] == 1 in two dimensions
  const double* points;       // (frames, count, dims)
  const int64_t* order;       // (frames, count)
  const int64_t* offsets;     // (frames, tiles + 1)
  Footprints<T> footprints;

  int64_t cells() const { return size[0] * size[1] * size[2]; }
  int64_t tile_count() const { return tiles[0] * tiles[1] * tiles[2]; }
};

// One tile of one frame for coils [coil, coil + used).
template <class T>
struct Task {
  int64_t frame, tile, coil, used;
};

template <class T>
Footprints<T> place_tile(const Geometry<T>& g, int64_t tile) {
  Footprints<T> f = g.footprints;
  for (int axis = 2; axis >= 0; --axis) {
    const int64_t t = tile % g.tiles[axis];
    tile /= g.tiles[axis];
    if (axis == 1 && f.dims == 2) {
      f.low[1] = 0, f.extent[1] = 1;
      continue;
    }
    const int64_t low = t * g.size[axis] / g.tiles[axis];
    const int64_t high = (t + 1) * g.size[axis] / g.tiles[axis];
    f.low[axis] = low - f.width / 2;
    f.extent[axis] = high - low + f.width;
  }
  return f;
}

// Reals of the largest buffer.
template <class T>
int64_t buffer_size(const Geometry<T>& g, int line) {
  int64_t cells = 1;
  for (int axis = 0; axis < 3; ++axis)
    cells *= axis == 1 && g.footprints.dims == 2
                 ? 1
                 : (g.size[axis] + g.tiles[axis] - 1) / g.tiles[axis] + g.footprints.width;
  return cells * line + kSlack;
}

// Copies the tile between the grid, coil by coil, and the buffer: into it, or added back from it.
template <class T, int L, bool kBack>
SAGITTAL_INLINE void move_tile(const Geometry<T>& g, const Footprints<T>& f, const Task<T>& task,
                               T* grid, T* buffer) {
  typedef T Pair __attribute__((vector_size(2 * sizeof(T)), aligned(sizeof(T)), may_alias));
  const auto wrap = [](int64_t i, int64_t n) { return i < 0 ? i + n : i >= n ? i - n : i; };
  const int64_t n = g.size[2];
  const int64_t begin = f.low[2], end = f.low[2] + f.extent[2];
  for (int64_t i = 0; i < f.extent[0]; ++i) {
    for (int64_t j = 0; j < f.extent[1]; ++j) {
      const int64_t row = wrap(f.low[0] + i, g.size[0]) * g.size[1] + wrap(f.low[1] + j, g.size[1]);
      T* line = buffer + (i * f.extent[1] + j) * f.extent[2] * L;
      for (int64_t c = 0; c < L / 2; ++c) {
        T* cells = grid + 2 * ((task.coil + c) * g.cells() + row * n);
        if (c >= task.used) {
          if (!kBack)
            for (int64_t k = 0; k < f.extent[2]; ++k)
              line[k * L + 2 * c] = line[k * L + 2 * c + 1] = 0;
          continue;
        }
        // Runs that don't wrap.
        for (int64_t k = begin; k < end;) {
          const int64_t cell = wrap(k, n), run = std::min(end - k, n - cell);
          T* target = line + (k - begin) * L + 2 * c;
          T* source = cells + 2 * cell;
          for (int64_t r = 0; r < run; ++r) {
            Pair& inner = *reinterpret_cast<Pair*>(target + r * L);
            Pair& outer = *reinterpret_cast<Pair*>(source + 2 * r);
            if constexpr (kBack)
              outer += inner;
            else
              inner = outer;
          }
          k += run;
        }
      }
    }
  }
}

// What every worker shares. `bad` is set when a point doesn't belong to its tile.
template <class T>
struct Job {
  const Geometry<T>& g;
  T* grid;     // (frames, coils, *size)
  T* samples;  // (frames, coils, count)
  std::atomic<bool>& bad;
};

template <class T, int L, bool kSpread>
struct TileBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const Job<T>& job, const Task<T>& task, T* buffer) {
    const Geometry<T>& g = job.g;
    const int64_t* offset = g.offsets + task.frame * (g.tile_count() + 1) + task.tile;
    const int64_t begin = offset[0], end = offset[1];
    if (begin == end) return;
    const Footprints<T> f = place_tile(g, task.tile);
    T* grid = job.grid + 2 * task.frame * g.coils * g.cells();
    T* samples = job.samples + 2 * (task.frame * g.coils + task.coil) * g.count;
    // Rows of vectors reach beyond the last cell, where a weight of zero must meet a number.
    T* last = buffer + f.extent[0] * f.extent[1] * f.extent[2] * L;
    std::fill(kSpread ? buffer : last, last + kSlack, T(0));
    if constexpr (!kSpread) move_tile<T, L, false>(g, f, task, grid, buffer);
    const int64_t* order = g.order + task.frame * g.count;
    const double* points = g.points + task.frame * g.count * f.dims;
    Point<T, kBytes, L> point;
    T sample[L] = {};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t m = order[i];
      if (m < 0 || m >= g.count || !point.place(f, points + m * f.dims)) {
        job.bad = true;
        continue;
      }
      if constexpr (kSpread) {
        for (int64_t c = 0; c < task.used; ++c) {
          sample[2 * c] = samples[2 * (c * g.count + m)];
          sample[2 * c + 1] = samples[2 * (c * g.count + m) + 1];
        }
        point.scatter(f, sample, buffer);
      } else {
        point.gather(f, buffer, sample);
        for (int64_t c = 0; c < task.used; ++c) {
          samples[2 * (c * g.count + m)] = sample[2 * c];
          samples[2 * (c * g.count + m) + 1] = sample[2 * c + 1];
        }
      }
    }
    if constexpr (kSpread) move_tile<T, L, true>(g, f, task, grid, buffer);
  }
};

// Runs tasks on all threads; whoever is free takes the next.
template <class T, int L, bool kSpread>
void run_tasks(const Job<T>& job, const std::vector<Task<T>>& tasks) {
  const int64_t count = static_cast<int64_t>(tasks.size());
  const int64_t workers = std::min<int64_t>(count, torch::stable::get_num_threads());
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    const Buffer<T> buffer(buffer_size(job.g, L));
    for (int64_t i = next++; i < count; i = next++)
      run_for_isa<TileBody<T, L, kSpread>>(job, tasks[i], buffer.get());
  });
}

// All frames and tiles for `used` coils from `coil` on, colour by colour.
template <class T, int L, bool kSpread>
void run_pass(const Job<T>& job, int64_t coil, int64_t used) {
  const Geometry<T>& g = job.g;
  const Footprints<T>& base = g.footprints;
  std::vector<T> wide(static_cast<size_t>(base.rows) * kMaxWidth * L);
  for (size_t i = 0; i < wide.size(); ++i) wide[i] = base.table[i / L];
  Geometry<T> local = g;
  local.footprints.wide = wide.data();
  const Job<T> pass{local, job.grid, job.samples, job.bad};
  const int colours = kSpread ? 8 : 1;
  for (int colour = 0; colour < colours; ++colour) {
    std::vector<Task<T>> tasks;
    for (int64_t frame = 0; frame < g.frames; ++frame) {
      for (int64_t tile = 0; tile < g.tile_count(); ++tile) {
        const int64_t last = tile % g.tiles[2], rest = tile / g.tiles[2];
        const int64_t middle = rest % g.tiles[1], first = rest / g.tiles[1];
        const int64_t own = (first & 1) * 4 + (middle & 1) * 2 + (last & 1);
        const int64_t* offset = g.offsets + frame * (g.tile_count() + 1) + tile;
        if ((kSpread && own != colour) || offset[0] == offset[1]) continue;
        tasks.push_back({frame, tile, coil, used});
      }
    }
    if (!tasks.empty()) run_tasks<T, L, kSpread>(pass, tasks);
  }
}

template <class T, bool kSpread>
void run_coils(const Job<T>& job) {
  constexpr int kMost = kLineBytes / sizeof(T);
  for (int64_t coil = 0; coil < job.g.coils;) {
    const int64_t used = std::min<int64_t>(job.g.coils - coil, kMost / 2);
    if (used == 1)
      run_pass<T, 2, kSpread>(job, coil, used);
    else if (used == 2)
      run_pass<T, 4, kSpread>(job, coil, used);
    else if (used <= 4)
      run_pass<T, 8, kSpread>(job, coil, used);
    else
      run_pass<T, kMost, kSpread>(job, coil, used);
    coil += used;
  }
}

// The tensors of a plan, held while raw pointers into them are in use.
struct Plan {
  Tensor points, order, offsets, coefficients;
  std::vector<int64_t> tiles;

  Plan(const Tensor& p, const Tensor& o, const Tensor& s, const Tensor& c, std::vector<int64_t> t)
      : points(torch::stable::contiguous(p)),
        order(torch::stable::contiguous(o)),
        offsets(torch::stable::contiguous(s)),
        coefficients(torch::stable::contiguous(c)),
        tiles(std::move(t)) {
    check_plan(points, order, offsets, coefficients, kMaxWidth);
  }

  template <class T>
  Geometry<T> geometry(int64_t coils, const std::vector<int64_t>& grid,
                       std::vector<T>& table) const {
    Geometry<T> g;
    const int64_t dims = points.size(2);
    const int width = static_cast<int>(coefficients.size(1));
    g.coils = coils, g.count = points.size(1), g.frames = points.size(0);
    check_tiles(points, offsets, width, grid, tiles);
    g.size[0] = grid[0], g.size[1] = dims == 3 ? grid[1] : 1, g.size[2] = grid[dims - 1];
    g.tiles[0] = tiles[0], g.tiles[1] = dims == 3 ? tiles[1] : 1, g.tiles[2] = tiles[dims - 1];
    const int rows = static_cast<int>(coefficients.size(0));
    table.assign(static_cast<size_t>(rows) * kMaxWidth, T(0));
    const double* from = static_cast<const double*>(coefficients.data_ptr());
    for (int k = 0; k < rows; ++k)
      for (int j = 0; j < width; ++j)
        table[k * kMaxWidth + j] = static_cast<T>(from[k * width + j]);
    g.footprints = {static_cast<int>(dims), width, rows, table.data(), nullptr, {}, {}};
    g.points = static_cast<const double*>(points.data_ptr());
    g.order = static_cast<const int64_t*>(order.data_ptr());
    g.offsets = static_cast<const int64_t*>(offsets.data_ptr());
    for (int64_t frame = 0; frame < g.frames; ++frame) {
      const int64_t* edge = g.offsets + frame * (g.tile_count() + 1);
      STD_TORCH_CHECK(edge[0] == 0 && edge[g.tile_count()] == g.count &&
                          std::is_sorted(edge, edge + g.tile_count() + 1),
                      "offsets must rise from 0 to the number of points");
    }
    return g;
  }
};

template <class T, bool kSpread>
void run(const Plan& plan, const Tensor& grid, const std::vector<int64_t>& shape,
         const Tensor& samples) {
  std::vector<T> table;
  std::atomic<bool> bad{false};
  const Geometry<T> g = plan.geometry<T>(samples.size(1), shape, table);
  run_coils<T, kSpread>(
      {g, static_cast<T*>(grid.data_ptr()), static_cast<T*>(samples.data_ptr()), bad});
  STD_TORCH_CHECK(!bad, "order and offsets do not sort these points into these tiles");
}

Tensor spread_cpu(const Tensor& samples_in, const Tensor& points, const Tensor& order,
                  const Tensor& offsets, const Tensor& coefficients,
                  std::vector<int64_t> grid_shape, std::vector<int64_t> tiles) {
  count_call();
  const Tensor samples = torch::stable::contiguous(samples_in);
  const Plan plan(points, order, offsets, coefficients, std::move(tiles));
  check_samples(samples, plan.points);
  std::vector<int64_t> shape = {samples.size(0), samples.size(1)};
  shape.insert(shape.end(), grid_shape.begin(), grid_shape.end());
  Tensor grid = torch::stable::new_zeros(samples, shape);
  if (wide(samples))
    run<double, true>(plan, grid, grid_shape, samples);
  else
    run<float, true>(plan, grid, grid_shape, samples);
  return grid;
}

Tensor interp_cpu(const Tensor& grid_in, const Tensor& points, const Tensor& order,
                  const Tensor& offsets, const Tensor& coefficients, std::vector<int64_t> tiles) {
  count_call();
  const Tensor grid = torch::stable::contiguous(grid_in);
  const Plan plan(points, order, offsets, coefficients, std::move(tiles));
  check_grid(grid, plan.points);
  std::vector<int64_t> shape;
  for (int64_t axis = 2; axis < grid.dim(); ++axis) shape.push_back(grid.size(axis));
  Tensor samples =
      torch::stable::new_empty(grid, {grid.size(0), grid.size(1), plan.points.size(1)});
  if (wide(grid))
    run<double, false>(plan, grid, shape, samples);
  else
    run<float, false>(plan, grid, shape, samples);
  return samples;
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("spread", TORCH_BOX(&sagittal::spread_cpu));
  m.impl("interp", TORCH_BOX(&sagittal::interp_cpu));
}

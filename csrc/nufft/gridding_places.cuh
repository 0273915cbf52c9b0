// Where things lie, for spread and interp on CUDA: the points of a slot, the cells of a tile's
// buffer, a footprint in it, and what a block holds in shared memory.
#pragma once

#include "gridding_layout.cuh"

namespace sagittal {
namespace gridding {

// Cells of a buffer: of a tile with its halo, or a part of one.
struct Box {
  int low[3], extent[3];
};

// Where a footprint begins in its tile's buffer; owner: the same modulo the owners of each axis.
struct alignas(16) Place {
  int at[3];
  uint8_t owner[4];
};

__device__ __forceinline__ int64_t clamp(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// Faults are reported, but nothing may be read or written out of bounds on the way.
__device__ __forceinline__ int64_t offset(const Plan& g, int frame, int tile) {
  return clamp(g.offsets[frame * (g.tile_count() + int64_t(1)) + tile], 0, g.count);
}

struct Slot {
  int tile;
  int64_t begin, end;  // of the points in the order
};

__device__ __forceinline__ Slot find_slot(const Plan& g, int shift, int frame, int slot) {
  int low = 0, high = g.tile_count();  // the last tile whose first slot is not after it
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (middle + (offset(g, frame, middle) >> shift) <= slot ? low : high) = middle;
  }
  const int64_t begin = static_cast<int64_t>(slot - low) << shift,
                end = begin + (int64_t(1) << shift);
  const int64_t from = offset(g, frame, low), to = offset(g, frame, low + 1);
  return {low, begin > from ? begin : from, end < to ? end : to};
}

// The first cell of a tile along an axis.
__device__ __forceinline__ int tile_edge(const Plan& g, int axis, int tile) {
  return tile * g.size[axis] / g.tiles[axis];
}

// One axis of the tile's buffer.
__device__ __forceinline__ void place_axis(const Plan& g, int axis, int tile, int& low,
                                           int& extent) {
  const bool flat = axis == 1 && g.dims == 2;
  low = flat ? 0 : tile_edge(g, axis, tile) - g.width / 2;
  extent = flat ? 1 : tile_edge(g, axis, tile + 1) - tile_edge(g, axis, tile) + g.width;
}

__device__ __forceinline__ Box place_tile(const Plan& g, int tile) {
  Box box;
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    place_axis(g, axis, tile % g.tiles[axis], box.low[axis], box.extent[axis]);
    tile /= g.tiles[axis];
  }
  return box;
}

// Part `index` of a tile, in the tile's own coordinates; some of the last ones may be empty.
__device__ __forceinline__ Box take_part(const Layout& l, const Box& tile, int index) {
  Box part = {{index / l.boxes[1] * l.box[0], index % l.boxes[1] * l.box[1], 0},
              {l.box[0], l.box[1], tile.extent[2]}};
#pragma unroll
  for (int axis = 0; axis < 2; ++axis)
    if (part.low[axis] + part.extent[axis] > tile.extent[axis])
      part.extent[axis] = tile.extent[axis] - part.low[axis];
  return part;
}

__device__ __forceinline__ int wrap(int cell, int size) {
  return cell < 0 ? cell + size : cell >= size ? cell - size : cell;
}

// What lies in a block's shared memory, one after the other.
template <class T, class Pack>
struct Room {
  Pack *cells, *samples;  // (box, packs), (stage, packs)
  Place* places;          // (stage)
  T *weights, *table;     // (stage, stride), (rows, width)

  __device__ Room(const Plan& g, const Layout& l, bool spread) {
    const int64_t count = static_cast<int64_t>(l.box[0]) * l.box[1] * l.inner * l.packs;
    cells = reinterpret_cast<Pack*>(dynamic_shared());
    samples = cells + count;
    // Places need 16 bytes; an odd number of 8-byte packs would not leave them that.
    const int64_t before = count + (spread ? l.stage * l.packs : 0);
    places = reinterpret_cast<Place*>(dynamic_shared() + (before * sizeof(Pack) + 15) / 16 * 16);
    weights = reinterpret_cast<T*>(places + l.stage);
    table = weights + l.stage * weight_stride(g.dims, g.width);
  }
};

// Of an array in registers, which an index would move to memory.
__device__ __forceinline__ int pick(const int (&of)[3], int axis) {
  return axis == 0 ? of[0] : axis == 1 ? of[1] : of[2];
}

// Weights and places of `count` points from place `begin` of the order on, by all threads.
template <class T, int kDims>
__device__ __forceinline__ void place_points(const Plan& g, const Box& tile, int frame,
                                             int64_t begin, int count, int cycle, const T* table,
                                             T* weights, Place* places) {
  const int width = g.width, each = kDims * width, stride = weight_stride(kDims, width);
  const double half = 0.5 * width;
  for (int item = threadIdx.x; item < count * each; item += blockDim.x) {
    const int p = item / each, of = item % each, axis = of / width, j = of % width;
    const int full = kDims == 2 ? 2 * axis : axis;  // of three
    const int64_t m = g.order[frame * g.count + begin + p];
    bool good = m >= 0 && m < g.count;
    const double u = good ? g.points[(frame * g.count + m) * kDims + axis] : 0.0;
    const double start = ceil(u - half);
    const int low = pick(tile.low, full), extent = pick(tile.extent, full);
    good = good && start >= low && start + width <= low + extent;
    const T z = static_cast<T>(2 * (start - u + half) - 1);
    T weight = table[j];
    for (int k = 1; k < g.rows; ++k) weight = weight * z + table[k * width + j];
    weights[p * stride + of] = weight;
    if (j > 0) continue;
    if (!good) g.faults->points = 1;
    const int at = good ? static_cast<int>(start) - low : 0;
    places[p].at[full] = at;
    places[p].owner[full] = static_cast<uint8_t>(at % (full == 0 ? cycle : width));
  }
}

template <class T>
__device__ __forceinline__ void load_table(const Plan& g, T* table) {
  for (int i = threadIdx.x; i < g.rows * g.width; i += blockDim.x)
    table[i] = static_cast<T>(g.coefficients[i]);
}

}  // namespace gridding
}  // namespace sagittal

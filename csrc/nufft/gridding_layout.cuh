// How spread and interp are cut up on CUDA: slots of points, groups of coils, boxes of cells.
// Shapes decide it, not the device: the same sums on every GPU. No torch include.
//
// A slot is a tile's points within one aligned interval of 2^shift places of the sorted order. As
// tile t has its first slot at t + (offsets[t] >> shift), no list of slots is needed, their number
// is known without the offsets, and a tile with many points has many slots.
//
// Tiles, slots, lanes and cells of a tile are counted in 32 bits, as 64-bit divisions are slow: the
// launcher refuses more. Points, and cells of a grid, are counted in 64.
#pragma once

#include "../common/device.cuh"

namespace sagittal {
namespace gridding {

constexpr int kMaxWidth = 16;
constexpr int kMaxRows = 32;  // coefficients of a polynomial
constexpr int kThreads = 256;
constexpr int kSpreadThreads = 512;  // at most
constexpr int kSpreadStage = 32;     // points whose weights lie in shared memory at once
constexpr int kInterpStage = 64;
constexpr int kLineBytes = 64;              // of one cell: the coils of a group
constexpr int kLeastShift = 8;              // 256 points
constexpr int64_t kBufferBytes = 64 << 10;  // of cells in shared memory
constexpr int64_t kMostShared = 99 << 10;   // of a block in all: what every GPU since 8.0 has
constexpr int64_t kLongestRow = kBufferBytes / 16;
constexpr int64_t kWorkspace = 256 << 20;  // bytes of partial sums
constexpr int64_t kMaxLanes = 65535;       // the limit of a grid's y

// Every writer writes 1.
struct Faults {
  int offsets, points;
};

// The arguments of a call. A 2-D grid (N0, N1) is treated as (N0, 1, N1).
struct Plan {
  int64_t frames, coils, count;  // count: points of a frame
  int size[3], tiles[3];         // size[1] == tiles[1] == 1 in two dimensions
  int dims, width, rows;         // rows: coefficients of a polynomial, highest power first
  const double* points;          // (frames, count, dims)
  const int64_t* order;          // (frames, count)
  const int64_t* offsets;        // (frames, tiles + 1)
  const double* coefficients;    // (rows, width)
  Faults* faults;

  __host__ __device__ int tile_count() const { return tiles[0] * tiles[1] * tiles[2]; }
  __host__ __device__ int64_t cells() const {
    return static_cast<int64_t>(size[0]) * size[1] * size[2];
  }
};

// What follows from the plan and the number type. A lane is a group of coils of one frame; a cell
// of a buffer is a line of packs, a pack 16 bytes of coils (8 for one coil of complex64).
struct Layout {
  int packs, groups;     // packs of a line, groups of coils
  int64_t lanes, slots;  // frames * groups; slots of a frame
  int shift;             // 2^shift points of a slot at most
  int64_t cells;         // of the largest tile with its halo
  int inner;             // its extent along the last axis
  int box[2], boxes[2];  // rows of axes 0 and 1 that shared memory holds; boxes of a tile
  int stage;             // points at once
  int cycle;             // owners along axis 0 (spread)
  int share;             // threads that share a point and a pack (interp)
  int threads;           // of a block
  int64_t bytes;         // of shared memory
  int64_t batch[2];      // slots and lanes whose partial sums the workspace holds (spread)
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Coils of a pack.
template <class T>
int pack_coils(int64_t coils) {
  return sizeof(T) == 4 && coils > 1 ? 2 : 1;
}

// Reals of the points' weights; an odd stride spares bank conflicts.
__host__ __device__ inline int weight_stride(int dims, int width) { return dims * width | 1; }

// The layout of a call. Tests ask for less memory.
template <class T>
Layout make_layout(const Plan& g, bool spread, int64_t buffer = kBufferBytes,
                   int64_t workspace = kWorkspace) {
  const int coils_a_pack = pack_coils<T>(g.coils);
  const int64_t pack_bytes = 2 * sizeof(T) * coils_a_pack;
  int64_t extent[3];
  for (int axis = 0; axis < 3; ++axis)
    extent[axis] = axis == 1 && g.dims == 2 ? 1 : ceil_div(g.size[axis], g.tiles[axis]) + g.width;
  Layout l = {};
  l.cells = extent[0] * extent[1] * extent[2];
  l.inner = static_cast<int>(extent[2]);
  const int64_t needed = larger(1, ceil_div(g.coils, coils_a_pack));
  const int64_t most = smaller(kLineBytes / 16, needed);
  const int64_t fit = larger(1, smaller(most, buffer / (l.cells * pack_bytes)));
  l.groups = static_cast<int>(ceil_div(needed, fit));
  l.packs = static_cast<int>(ceil_div(needed, l.groups));
  l.lanes = g.coils > 0 ? g.frames * l.groups : 0;
  l.shift = kLeastShift;
  while ((static_cast<int64_t>(g.tile_count()) << l.shift) * 2 <= g.count) ++l.shift;
  l.slots = g.tile_count() + (g.count >> l.shift);

  const int64_t line = l.packs * pack_bytes;
  const int64_t rows = larger(1, buffer / (line * extent[2]));
  l.box[1] = static_cast<int>(smaller(extent[1], rows));
  l.box[0] = static_cast<int>(smaller(extent[0], larger(1, rows / extent[1])));
  for (int axis = 0; axis < 2; ++axis)
    l.boxes[axis] = static_cast<int>(ceil_div(extent[axis], l.box[axis]));

  if (spread) {
    const int owners = g.width * (g.dims == 3 ? g.width : 1) * l.packs;
    l.cycle = static_cast<int>(larger(1, smaller(g.width, kSpreadThreads / owners)));
    l.threads = static_cast<int>(ceil_div(l.cycle * owners, 32) * 32);
    l.stage = kSpreadStage;
  } else {
    l.stage = kInterpStage;
    l.share = l.packs == 1 ? 4 : l.packs == 2 ? 2 : 1;
    l.threads = l.stage * l.packs * l.share;
  }
  const int64_t cells = static_cast<int64_t>(l.box[0]) * l.box[1] * extent[2];
  const int64_t reals = l.stage * weight_stride(g.dims, g.width) + g.rows * g.width;
  l.bytes = (cells + (spread ? l.stage : 0)) * line + 16 * (l.stage + 1) + reals * sizeof(T);

  const int64_t slot_bytes = l.cells * line;
  l.batch[0] = smaller(l.slots, larger(1, workspace / slot_bytes));
  const int64_t lanes = larger(1, workspace / (slot_bytes * l.batch[0]));
  l.batch[1] = smaller(smaller(l.lanes, kMaxLanes), lanes);
  return l;
}

// The part of the slots and lanes that a launch covers.
struct Batch {
  int slot, slots, lane;
  bool first;  // of the slots: the grid holds nothing yet
};

// Calls launch(batch, lanes) for what the workspace holds at a time.
template <class Launch>
void for_batches(const Layout& l, const Launch& launch) {
  for (int64_t lane = 0; lane < l.lanes; lane += l.batch[1])
    for (int64_t slot = 0; slot < l.slots; slot += l.batch[0])
      launch(Batch{static_cast<int>(slot), static_cast<int>(smaller(l.batch[0], l.slots - slot)),
                   static_cast<int>(lane), slot == 0},
             smaller(l.batch[1], l.lanes - lane));
}

// The same without a workspace.
template <class Launch>
void for_lanes(const Layout& l, const Launch& launch) {
  for (int64_t lane = 0; lane < l.lanes; lane += kMaxLanes)
    launch(Batch{0, static_cast<int>(l.slots), static_cast<int>(lane), true},
           smaller(kMaxLanes, l.lanes - lane));
}

}  // namespace gridding
}  // namespace sagittal

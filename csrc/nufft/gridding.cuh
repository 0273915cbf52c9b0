// spread and interp on CUDA: kernels on raw pointers, cut up as gridding_layout.cuh says.
//
// A block holds the cells of one tile and its halo in shared memory, coils innermost, for the
// points of one slot. In `spread` a thread owns the cells that lie at one place modulo the width of
// the kernel: every footprint has exactly one of them, so all threads have work at every point,
// nobody else writes there, and a cell adds its points in their order, without barriers between
// them. The slots' sums go to a workspace, from which a second kernel gathers every cell of the
// grid in a fixed order. No atomics: the same bits every time.
//
// For M points, C coils, width W, s bytes a real and a grid of G cells, both do 4 C M W^d Flop (a
// complex number times a real weight, added). Each of these cells is read in shared memory, 2 s
// bytes for 4 Flop, and in spread written again. An H100 moves 128 bytes a clock and SM there, 30
// TB/s in all, so that 7.4 (spread) and 15 TFlop/s (interp) in float32 are the bound, well below
// its 67: at 65536 points, 8 coils and W = 7 on 320^2 (103 MFlop) 14 and 7 us. Memory: interp reads
// 2 s C G and the halos (1.8 G there, 5.4 G for 8^3 tiles and W = 6) and writes 2 s C M. spread
// reads 2 s C M, writes 2 s C G and moves its workspace twice, 2 s C times the cells of all slots
// with their halos: 1.8 to 3.8 G there, 25 MB at most, which the second-level cache holds. On large
// 3-D grids with few points it does not, and the workspace is the bound.
#pragma once

#include "gridding_places.cuh"

namespace sagittal {
namespace gridding {

// Offsets must rise from 0 to the number of points.
__global__ void __launch_bounds__(kThreads) check_offsets(Plan g) {
  const int64_t tiles = g.tile_count(),
                i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= g.frames * (tiles + 1)) return;
  const int64_t tile = i % (tiles + 1), edge = g.offsets[i];
  const bool good = tile == 0 ? edge == 0 : edge >= g.offsets[i - 1];
  if (!good || (tile == tiles && edge != g.count)) g.faults->offsets = 1;
}

// Sums of slot batch.slot + blockIdx.x, lane batch.lane + blockIdx.y, part blockIdx.z of its tile.
// sums: (lanes, slots, cells of the largest tile, packs)
template <class T, int kCoils, int kDims>
__global__ void __launch_bounds__(kSpreadThreads)
    spread_slots(Plan g, Layout l, Batch batch, const Complex<T>* samples,
                 Numbers<T, 2 * kCoils>* sums) {
  using Pack = Numbers<T, 2 * kCoils>;
  const int lane = batch.lane + blockIdx.y, frame = lane / l.groups;
  const int64_t first_coil = lane % l.groups * l.packs * kCoils;
  const Slot slot = find_slot(g, l.shift, frame, batch.slot + blockIdx.x);
  if (slot.begin >= slot.end) return;
  const Box tile = place_tile(g, slot.tile), part = take_part(l, tile, blockIdx.z);
  if (part.extent[0] <= 0 || part.extent[1] <= 0) return;
  const Room<T, Pack> room(g, l, true);
  const int width = g.width, packs = l.packs, stride = weight_stride(kDims, width);
  const int cells = part.extent[0] * part.extent[1] * part.extent[2];
  for (int i = threadIdx.x; i < cells * packs; i += blockDim.x) room.cells[i] = Pack{};
  load_table(g, room.table);
  // What this thread owns.
  const int pack = threadIdx.x % packs, column = threadIdx.x / packs % width;
  const int others = threadIdx.x / packs / width;
  const int middle = kDims == 3 ? others % width : 0, row = kDims == 3 ? others / width : others;

  for (int64_t begin = slot.begin; begin < slot.end; begin += l.stage) {
    const int count = static_cast<int>(begin + l.stage < slot.end ? l.stage : slot.end - begin);
    __syncthreads();
    place_points<T, kDims>(g, tile, frame, begin, count, l.cycle, room.table, room.weights,
                           room.places);
    for (int i = threadIdx.x; i < l.stage * packs * kCoils; i += blockDim.x) {
      const int p = i % l.stage, c = i / l.stage;
      const int64_t m = p < count ? g.order[frame * g.count + begin + p] : -1;
      const bool there = m >= 0 && m < g.count && first_coil + c < g.coils;
      reinterpret_cast<Complex<T>*>(room.samples)[p * packs * kCoils + c] =
          there ? samples[(frame * g.coils + first_coil + c) * g.count + m] : Complex<T>{};
    }
    __syncthreads();
    for (int p = 0; p < count && row < l.cycle; ++p) {
      const Place place = room.places[p];
      const T* const weight = room.weights + p * stride;
      int k = column - place.owner[2], j = middle - place.owner[1], i = row - place.owner[0];
      k += k < 0 ? width : 0;
      T across = weight[(kDims - 1) * width + k];
      int at = place.at[2] + k;
      if constexpr (kDims == 3) {
        j += j < 0 ? width : 0;
        across *= weight[width + j];
        const int line = place.at[1] + j - part.low[1];
        if (line < 0 || line >= part.extent[1]) continue;
        at += line * part.extent[2];
      }
      const Pack sample = room.samples[p * packs + pack];
      for (i += i < 0 ? l.cycle : 0; i < width; i += l.cycle) {
        const int plane = place.at[0] + i - part.low[0];
        if (plane < 0 || plane >= part.extent[0]) continue;
        Pack& cell = room.cells[(plane * part.extent[1] * part.extent[2] + at) * packs + pack];
        const T scale = across * weight[i];
#pragma unroll
        for (int n = 0; n < 2 * kCoils; ++n) cell.value[n] += scale * sample.value[n];
      }
    }
  }
  __syncthreads();
  sums += (blockIdx.y * static_cast<int64_t>(batch.slots) + blockIdx.x) * l.cells * packs;
  const int each = part.extent[2] * packs;  // packs of a row
  for (int r = threadIdx.x / 32; r < part.extent[0] * part.extent[1]; r += blockDim.x / 32) {
    const int64_t plane = part.low[0] + r / part.extent[1], line = part.low[1] + r % part.extent[1];
    Pack* const to = sums + (plane * tile.extent[1] + line) * each;
    for (int i = threadIdx.x % 32; i < each; i += 32) to[i] = room.cells[r * each + i];
  }
}

// One of the tiles whose buffers reach into a tile; `low` counts from the tile's side of the seam.
struct Neighbour {
  int low[3], extent[3];
  int first, last;  // of its slots, as far as they are in the batch
};

template <int kDims>
__device__ __forceinline__ Neighbour find_neighbour(const Plan& g, const Layout& l,
                                                    const Batch& batch, int frame, int tile,
                                                    int which) {
  Neighbour near;
  int index = 0, stride = 1;
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    const int count = g.tiles[axis], flat = kDims == 2 && axis == 1;
    int other = tile % count + (flat ? 0 : which % 3 - 1);
    tile /= count;
    which /= flat ? 1 : 3;
    const int shift = other < 0 ? -g.size[axis] : other >= count ? g.size[axis] : 0;
    other = wrap(other, count);
    place_axis(g, axis, other, near.low[axis], near.extent[axis]);
    near.low[axis] += shift;
    index += other * stride;
    stride *= count;
  }
  const int64_t from = offset(g, frame, index), to = offset(g, frame, index + 1);
  const int64_t low = batch.slot, high = low + batch.slots;
  const int64_t last = from < to ? index + ((to - 1) >> l.shift) + 1 : 0;
  near.first = static_cast<int>(clamp(index + (from >> l.shift), low, high));
  near.last = static_cast<int>(clamp(last, low, high));
  return near;
}

// The cells of tile blockIdx.x: sums of the slots that reach them, neighbours and slots in order.
template <class T, int kCoils, int kDims>
__global__ void __launch_bounds__(kThreads, 4)
    join_slots(Plan g, Layout l, Batch batch, const Numbers<T, 2 * kCoils>* sums,
               Complex<T>* grid) {
  using Pack = Numbers<T, 2 * kCoils>;
  constexpr int kNear = kDims == 3 ? 27 : 9;
  __shared__ Neighbour neighbours[27];
  const int lane = batch.lane + blockIdx.y, frame = lane / l.groups;
  const int64_t first_coil = lane % l.groups * l.packs * kCoils;
  if (threadIdx.x < kNear)
    neighbours[threadIdx.x] = find_neighbour<kDims>(g, l, batch, frame, blockIdx.x, threadIdx.x);
  __syncthreads();
  bool any = batch.first;
  for (int n = 0; n < kNear; ++n) any = any || neighbours[n].first < neighbours[n].last;
  if (!any) return;
  const int t2 = blockIdx.x % g.tiles[2], t1 = blockIdx.x / g.tiles[2] % g.tiles[1];
  const int t0 = blockIdx.x / g.tiles[2] / g.tiles[1];
  const int low[3] = {tile_edge(g, 0, t0), tile_edge(g, 1, t1), tile_edge(g, 2, t2)};
  const int extent[3] = {tile_edge(g, 0, t0 + 1) - low[0], tile_edge(g, 1, t1 + 1) - low[1],
                         tile_edge(g, 2, t2 + 1) - low[2]};
  const int cells = extent[0] * extent[1] * extent[2];
  sums += blockIdx.y * static_cast<int64_t>(batch.slots) * l.cells * l.packs;
  for (int item = threadIdx.x; item < cells * l.packs; item += kThreads) {
    const int pack = item / cells, cell = item % cells;
    const int x2 = low[2] + cell % extent[2], x1 = low[1] + cell / extent[2] % extent[1];
    const int x0 = low[0] + cell / extent[2] / extent[1];
    Pack sum = {};
#pragma unroll 1
    for (int n = 0; n < kNear; ++n) {
      const Neighbour& near = neighbours[n];
      const int at0 = x0 - near.low[0], at1 = x1 - near.low[1], at2 = x2 - near.low[2];
      if (at0 < 0 || at0 >= near.extent[0] || at1 < 0 || at1 >= near.extent[1] || at2 < 0 ||
          at2 >= near.extent[2])
        continue;
      const int at = (at0 * near.extent[1] + at1) * near.extent[2] + at2;
#pragma unroll 1
      for (int slot = near.first; slot < near.last; ++slot) {
        const Pack part = sums[((slot - batch.slot) * l.cells + at) * l.packs + pack];
#pragma unroll
        for (int k = 0; k < 2 * kCoils; ++k) sum.value[k] += part.value[k];
      }
    }
    const int64_t index = (static_cast<int64_t>(x0) * g.size[1] + x1) * g.size[2] + x2;
#pragma unroll
    for (int c = 0; c < kCoils; ++c) {
      const int64_t coil = first_coil + pack * kCoils + c;
      if (coil >= g.coils) continue;
      Complex<T>& to = grid[(frame * g.coils + coil) * g.cells() + index];
      const Complex<T> found = {sum.value[2 * c], sum.value[2 * c + 1]};
      to = batch.first ? found : to + found;
    }
  }
}

// Samples of slot blockIdx.x, lane batch.lane + blockIdx.y, as far as cells of part `index` of its
// tile give them: set by the first part, added to by the others, which are launches of their own.
// Two blocks an SM leave 128 registers; without them ptxas spills some bytes to stay at 64.
template <class T, int kCoils, int kDims, int kWidth>
__global__ void __launch_bounds__(kThreads, 2)
    interp_slots(Plan g, Layout l, Batch batch, int index, const Complex<T>* grid,
                 Complex<T>* samples) {
  using Pack = Numbers<T, 2 * kCoils>;
  const int lane = batch.lane + blockIdx.y, frame = lane / l.groups;
  const int64_t first_coil = lane % l.groups * l.packs * kCoils;
  const Slot slot = find_slot(g, l.shift, frame, blockIdx.x);
  if (slot.begin >= slot.end) return;
  const Box tile = place_tile(g, slot.tile), part = take_part(l, tile, index);
  if (part.extent[0] <= 0 || part.extent[1] <= 0) return;
  const Room<T, Pack> room(g, l, false);
  const int width = g.width, packs = l.packs, stride = weight_stride(kDims, width);
  load_table(g, room.table);

  const int coils = packs * kCoils, cells = 32 / coils;  // cells that a warp loads at once
  const int own = threadIdx.x % 32 / coils, coil = threadIdx.x % 32 % coils;
  for (int r = threadIdx.x / 32; r < part.extent[0] * part.extent[1]; r += blockDim.x / 32) {
    const int plane = wrap(tile.low[0] + part.low[0] + r / part.extent[1], g.size[0]);
    const int line = wrap(tile.low[1] + part.low[1] + r % part.extent[1], g.size[1]);
    const Complex<T>* const from = grid + (frame * g.coils + first_coil + coil) * g.cells() +
                                   (static_cast<int64_t>(plane) * g.size[1] + line) * g.size[2];
    Complex<T>* const to = reinterpret_cast<Complex<T>*>(room.cells) + r * part.extent[2] * coils;
    for (int k = own; k < part.extent[2] && own < cells; k += cells)
      to[k * coils + coil] =
          first_coil + coil < g.coils ? from[wrap(tile.low[2] + k, g.size[2])] : Complex<T>{};
  }

  const int own_share = threadIdx.x % l.share, rest = threadIdx.x / l.share;
  const int pack = rest % packs, p = rest / packs;
  for (int64_t begin = slot.begin; begin < slot.end; begin += l.stage) {
    const int count = static_cast<int>(begin + l.stage < slot.end ? l.stage : slot.end - begin);
    __syncthreads();
    place_points<T, kDims>(g, tile, frame, begin, count, 1, room.table, room.weights, room.places);
    __syncthreads();
    Pack total = {};
    if (p < count) {
      const Place place = room.places[p];
      const T* const weight = room.weights + p * stride;
      T last[kWidth];  // the last axis' weights
#pragma unroll
      for (int k = 0; k < kWidth; ++k) last[k] = k < width ? weight[(kDims - 1) * width + k] : T(0);
      const int skip = part.low[0] - place.at[0];  // planes of the footprint before the part
      const int until = skip + part.extent[0] < width ? skip + part.extent[0] : width;
      const int skip1 = kDims == 3 ? part.low[1] - place.at[1] : 0;
      const int width1 = kDims == 3 ? width : 1;
      const int until1 = skip1 + part.extent[1] < width1 ? skip1 + part.extent[1] : width1;
      for (int i = (skip > 0 ? skip : 0) + own_share; i < until; i += l.share) {
        for (int j = skip1 > 0 ? skip1 : 0; j < until1; ++j) {
          const Pack* const from =
              room.cells +
              (((i - skip) * part.extent[1] + j - skip1) * part.extent[2] + place.at[2]) * packs +
              pack;
          Pack sum = {};
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            if (k >= width) break;
            const Pack cell = from[k * packs];
#pragma unroll
            for (int n = 0; n < 2 * kCoils; ++n) sum.value[n] += last[k] * cell.value[n];
          }
          const T scale = kDims == 3 ? weight[i] * weight[width + j] : weight[i];
#pragma unroll
          for (int n = 0; n < 2 * kCoils; ++n) total.value[n] += scale * sum.value[n];
        }
      }
    }
    for (int step = l.share / 2; step > 0; step /= 2)
#pragma unroll
      for (int n = 0; n < 2 * kCoils; ++n)
        total.value[n] += __shfl_xor_sync(0xffffffffu, total.value[n], step);
    if (p >= count || own_share != 0) continue;
    const int64_t m = g.order[frame * g.count + begin + p];
    if (m < 0 || m >= g.count) continue;
#pragma unroll
    for (int c = 0; c < kCoils; ++c) {
      const int64_t which = first_coil + pack * kCoils + c;
      if (which >= g.coils) continue;
      Complex<T>& to = samples[(frame * g.coils + which) * g.count + m];
      const Complex<T> found = {total.value[2 * c], total.value[2 * c + 1]};
      to = index == 0 ? found : to + found;
    }
  }
}

}  // namespace gridding
}  // namespace sagittal

// The footprint of a point on a tile of the grid, and the two loops over it.
//
// A tile with its halo is held as a private buffer whose cells are lines of L reals: re, im of L /
// 2 coils. A footprint is then a stack of contiguous rows of width * L reals, whatever the number
// of coils: the last axis' weights, repeated for each real of a cell, are laid out as one row of
// vectors, and the loops over other axes only scale it.
#pragma once

#include <cmath>
#include <cstdint>

#include "../common/tile.h"

namespace sagittal {

#define SAGITTAL_LAMBDA __attribute__((always_inline))

constexpr int kMaxWidth = 16;

// What the points of a tile share.
template <class T>
struct Footprints {
  int dims, width, rows;  // rows: polynomial coefficients of a cell, highest power first
  const T* table;         // (rows, kMaxWidth), zero beyond the width
  const T* wide;          // (rows, kMaxWidth * L), each column L times
  int64_t low[3];         // first cell of the buffer; low[1] == 0 in two dimensions
  int64_t extent[3];      // cells of the buffer
};

template <class T, int kBytes, int L>
struct Point {
  using S = Simd<T, kBytes>;
  using V = typename S::Vector;
  static constexpr int kLanes = S::kLanes;
  static constexpr int kCell =
      L > kLanes ? L / kLanes : 1;  // vectors of one cell, or a part of one
  static constexpr int kRow = (kMaxWidth * L + kLanes - 1) / kLanes;

  T weight[3][kMaxWidth];
  V row[kRow];  // weights of the last axis, one vector after the other
  int vectors;  // of the row
  int64_t at;   // of the first cell in the buffer

  // False if the footprint leaves the buffer: the point isn't one of this tile.
  SAGITTAL_INLINE bool place(const Footprints<T>& f, const double* u) {
    const double half = 0.5 * f.width;
    T z[3];
    int64_t local[3] = {0, 0, 0};
    for (int axis = 0; axis < 3; ++axis) {
      if (axis == 1 && f.dims == 2) continue;
      const double x = u[axis == 2 ? f.dims - 1 : axis], start = std::ceil(x - half);
      if (!(start >= double(f.low[axis]) &&
            start + f.width <= double(f.low[axis] + f.extent[axis])))
        return false;
      z[axis] = static_cast<T>(2 * (start - x + half) - 1);
      local[axis] = static_cast<int64_t>(start) - f.low[axis];
    }
    at = ((local[0] * f.extent[1] + local[1]) * f.extent[2] + local[2]) * L;
    vectors = (f.width * L + kLanes - 1) / kLanes;
    for (int j = 0; j < f.width; j += kLanes) {
      V first = S::at(f.table + j), last = first;
      for (int k = 1; k < f.rows; ++k) {
        const V c = S::at(f.table + k * kMaxWidth + j);
        first = first * z[0] + c;
        last = last * z[2] + c;
      }
      S::at(weight[0] + j) = first;
      S::at(weight[2] + j) = last;
    }
    weight[1][0] = 1;
    if (f.dims == 3) {
      for (int j = 0; j < f.width; j += kLanes) {
        V middle = S::at(f.table + j);
        for (int k = 1; k < f.rows; ++k)
          middle = middle * z[1] + S::at(f.table + k * kMaxWidth + j);
        S::at(weight[1] + j) = middle;
      }
    }
    if constexpr (L >= kLanes) {
      for (int v = 0; v < vectors; ++v) row[v] = V{} + weight[2][v / kCell];
    } else {
      for (int v = 0; v < vectors; ++v) {
        V sum = S::at(f.wide + v * kLanes);
        for (int k = 1; k < f.rows; ++k)
          sum = sum * z[2] + S::at(f.wide + k * kMaxWidth * L + v * kLanes);
        row[v] = sum;
      }
    }
    return true;
  }

  // Calls group<n>(first vector) for the row, in groups that fit the registers.
  template <class F>
  SAGITTAL_INLINE void for_groups(const F& group) const {
    int v = 0;
    for (; v + 8 <= vectors; v += 8) group.template operator()<8>(v);
    const int rest = vectors - v;
    if (rest >= 6) group.template operator()<6>(v), v += 6;
    if (rest == 5 || rest == 4) group.template operator()<4>(v), v += 4;
    const int last = vectors - v;
    if (last == 3) group.template operator()<3>(v);
    if (last == 2) group.template operator()<2>(v);
    if (last == 1) group.template operator()<1>(v);
  }

  // sample[0..L) = the buffer's weighted sum over the footprint
  SAGITTAL_INLINE void gather(const Footprints<T>& f, const T* buffer, T* sample) const {
    V total[kCell] = {};
    const int middle = f.dims == 3 ? f.width : 1;
    for_groups([&]<int n>(int v) SAGITTAL_LAMBDA {
      V sum[n] = {};
      for (int i = 0; i < f.width; ++i) {
        for (int j = 0; j < middle; ++j) {
          const T scale = weight[0][i] * weight[1][j];
          const T* p = buffer + at + (i * f.extent[1] + j) * f.extent[2] * L + v * kLanes;
#pragma GCC unroll 8
          for (int k = 0; k < n; ++k) sum[k] += scale * S::at(p + k * kLanes);
        }
      }
#pragma GCC unroll 8
      for (int k = 0; k < n; ++k) total[(v + k) % kCell] += sum[k] * row[v + k];
    });
    T lanes[kCell * kLanes];
    for (int v = 0; v < kCell; ++v) S::at(lanes + v * kLanes) = total[v];
    for (int r = 0; r < L; ++r) {
      T sum = lanes[r];
      for (int i = r + L; i < kCell * kLanes; i += L) sum += lanes[i];
      sample[r] = sum;
    }
  }

  // Adds sample[0..L) times the weights to the buffer.
  SAGITTAL_INLINE void scatter(const Footprints<T>& f, const T* sample, T* buffer) {
    T lanes[kCell * kLanes];
    for (int i = 0; i < kCell * kLanes; ++i) lanes[i] = sample[i % L];
    for (int v = 0; v < vectors; ++v) row[v] *= S::at(lanes + v % kCell * kLanes);
    const int middle = f.dims == 3 ? f.width : 1;
    for_groups([&]<int n>(int v) SAGITTAL_LAMBDA {
      for (int i = 0; i < f.width; ++i) {
        for (int j = 0; j < middle; ++j) {
          const T scale = weight[0][i] * weight[1][j];
          T* p = buffer + at + (i * f.extent[1] + j) * f.extent[2] * L + v * kLanes;
#pragma GCC unroll 8
          for (int k = 0; k < n; ++k) S::at(p + k * kLanes) += scale * row[v + k];
        }
      }
    });
  }
};

}  // namespace sagittal

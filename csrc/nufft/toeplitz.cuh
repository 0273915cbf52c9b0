// The passes of the Toeplitz normal operator on CUDA: kernels on raw pointers, see csrc/README.md.
//
// Every pass reads and writes each number once; memory bounds all of them. A warp reads and writes
// 32 neighbouring numbers (256 bytes of complex64), so transfers are whole lines along both axes;
// a block turns its tile in shared memory, whose rows are one number longer than the tile so that
// columns meet no bank conflict. With s bytes a real, for each pixel and coil:
//
//   pass     bytes                         Flop   H100 (3.35 TB/s), 320^2, 15 coils, float32
//   expand   2 s map, 4 s out, 2 s / C in  12     11 us (1.5 M pixels of all coils)
//   turn     2 s in, 4 s out               6      22 us (twice as many: one phase axis is there)
//   unturn   4 s in, 2 s out               8      22 us
//   filter   4 s, s / C kernel             2      30 us (four times as many)
//   reduce   4 s in, 2 s map, 4 s / C      16     11 us
//
// Below 1 Flop a byte everywhere, where an H100 in float32 asks for 20 before arithmetic matters.
#pragma once

#include "../common/device.cuh"

namespace sagittal {
namespace toeplitz {

constexpr int kThreads = 256;
constexpr int kSide = 32;        // of a tile
constexpr int kAcross = 16;      // columns of a tile of `reduce`: more blocks, 128 bytes a row
constexpr int kCoilsAtOnce = 8;  // of `filter`, which share what they read of the kernel
constexpr int kRows = kThreads / kSide;

// Matrices (n, rest), or their transposes, that one call turns.
struct Matrix {
  int64_t n, rest;

  __host__ __device__ int64_t size() const { return n * rest; }
  __host__ __device__ int64_t tiles(int columns) const {
    return (n + kSide - 1) / kSide * ((rest + columns - 1) / columns);
  }
};

// Rows from i on (of n) and columns from j on (of rest).
struct Tile {
  int64_t i, j;
};

__device__ __forceinline__ Tile take_tile(const Matrix& m, int64_t index, int columns) {
  const int64_t across = (m.rest + columns - 1) / columns;
  return {index / across * kSide, index % across * columns};
}

// (n, rest), times a map if there are any, -> (2, rest, n): as it is, and modulated along n.
// Coils are neighbouring blocks, so their image is read from memory once.
template <class T, bool kMaps>
__global__ void __launch_bounds__(kThreads)
    turn(Matrix m, const Complex<T>* x, const Complex<T>* maps, int64_t coils, bool shared_maps,
         const Complex<T>* modulation, Complex<T>* y) {
  __shared__ Complex<T> tile[kSide][kSide + 1];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int64_t coil = blockIdx.x % coils, task = blockIdx.x / coils, tiles = m.tiles(kSide);
  const int64_t batch = task / tiles, k = batch * coils + coil;
  const Tile t = take_tile(m, task % tiles, kSide);
  x += batch * m.size();
  if (kMaps) maps += (shared_maps ? coil : k) * m.size();
#pragma unroll
  for (int r = 0; r < kSide; r += kRows) {
    const int64_t i = t.i + ty + r, j = t.j + tx;
    if (i >= m.n || j >= m.rest) continue;
    Complex<T> value = x[i * m.rest + j];
    if (kMaps) value = value * maps[i * m.rest + j];
    tile[ty + r][tx] = value;
  }
  __syncthreads();
  if (t.i + tx >= m.n) return;
  const Complex<T> wave = modulation[t.i + tx];
  y += 2 * k * m.size() + t.i + tx;
#pragma unroll
  for (int r = 0; r < kSide; r += kRows) {
    const int64_t j = t.j + ty + r;
    if (j >= m.rest) continue;
    const Complex<T> value = tile[tx][ty + r];
    y[j * m.n] = value;
    y[m.size() + j * m.n] = value * wave;
  }
}

// What `unturn` sums at column j of its turned input x (2, rest, n): x_0 + conj(modulation) x_1.
template <class T>
__device__ __forceinline__ Complex<T> unmodulate(const Matrix& m, const Complex<T>* x,
                                                 Complex<T> wave, int64_t i, int64_t j) {
  return x[j * m.n + i] + conj_times(wave, x[m.size() + j * m.n + i]);
}

// The adjoint of `turn` without maps: (2, rest, n) -> (n, rest).
template <class T>
__global__ void __launch_bounds__(kThreads)
    unturn(Matrix m, const Complex<T>* x, const Complex<T>* modulation, Complex<T>* y) {
  __shared__ Complex<T> tile[kSide][kSide + 1];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int64_t tiles = m.tiles(kSide), k = blockIdx.x / tiles;
  const Tile t = take_tile(m, blockIdx.x % tiles, kSide);
  if (t.i + tx < m.n) {
    const Complex<T> wave = modulation[t.i + tx];
#pragma unroll
    for (int r = 0; r < kSide; r += kRows) {
      const int64_t j = t.j + ty + r;
      if (j < m.rest) tile[ty + r][tx] = unmodulate(m, x + 2 * k * m.size(), wave, t.i + tx, j);
    }
  }
  __syncthreads();
  y += k * m.size() + t.j + tx;
#pragma unroll
  for (int r = 0; r < kSide; r += kRows) {
    const int64_t i = t.i + ty + r;
    if (i < m.n && t.j + tx < m.rest) y[i * m.rest] = tile[tx][ty + r];
  }
}

// partial (B, n, rest) + the sum over coils, in order, of conj(maps) times the unturned x
// (B, C, 2, rest, n). Two tiles take turns, so a coil costs one barrier.
template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce(Matrix m, const Complex<T>* x, const Complex<T>* maps, int64_t coils, bool shared_maps,
           const Complex<T>* modulation, const Complex<T>* partial, Complex<T>* y) {
  constexpr int kPasses = kSide * kAcross / kThreads;
  __shared__ Complex<T> tile[2][kAcross][kSide + 1];
  const int64_t tiles = m.tiles(kAcross), batch = blockIdx.x / tiles;
  const Tile t = take_tile(m, blockIdx.x % tiles, kAcross);
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;      // along n
  const int ux = threadIdx.x % kAcross, uy = threadIdx.x / kAcross;  // along rest
  const bool inside = t.i + tx < m.n;
  const Complex<T> wave = inside ? modulation[t.i + tx] : Complex<T>{};
  x += batch * coils * 2 * m.size();
  if (!shared_maps) maps += batch * coils * m.size();
  Complex<T> sum[kPasses] = {};
  for (int64_t c = 0; c < coils; ++c, x += 2 * m.size(), maps += m.size()) {
#pragma unroll
    for (int r = 0; r < kPasses; ++r) {
      const int64_t j = t.j + ty + r * kRows;
      if (inside && j < m.rest)
        tile[c % 2][ty + r * kRows][tx] = unmodulate(m, x, wave, t.i + tx, j);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kPasses; ++r) {
      const int row = uy + r * (kThreads / kAcross);
      const int64_t i = t.i + row, j = t.j + ux;
      if (i < m.n && j < m.rest)
        sum[r] = sum[r] + conj_times(maps[i * m.rest + j], tile[c % 2][ux][row]);
    }
  }
#pragma unroll
  for (int r = 0; r < kPasses; ++r) {
    const int64_t i = t.i + uy + r * (kThreads / kAcross), j = t.j + ux;
    const int64_t at = batch * m.size() + i * m.rest + j;
    if (i < m.n && j < m.rest) y[at] = partial[at] + sum[r];
  }
}

// Spectrum (B, C, pixels) times a real kernel (B or 1, pixels), kPixels at once (16 bytes of the
// spectrum where its rows are aligned). A thread takes its pixels of kCoilsAtOnce coils.
template <class T, int kPixels>
__global__ void __launch_bounds__(kThreads)
    filter(int64_t pixels, int64_t coils, bool shared_kernel, const T* spectrum, const T* kernel,
           T* y) {
  using Wide = Numbers<T, 2 * kPixels>;
  const int64_t blocks = (pixels + kThreads * kPixels - 1) / (kThreads * kPixels);
  const int64_t batch = blockIdx.x / blocks;
  const int64_t at = (blockIdx.x % blocks * kThreads + threadIdx.x) * kPixels;
  if (at >= pixels) return;
  const auto scale = *reinterpret_cast<const Numbers<T, kPixels>*>(
      kernel + (shared_kernel ? 0 : batch * pixels) + at);
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kCoilsAtOnce;
#pragma unroll
  for (int c = 0; c < kCoilsAtOnce; ++c) {
    if (first + c >= coils) return;
    const int64_t place = 2 * ((batch * coils + first + c) * pixels + at);
    Wide value = *reinterpret_cast<const Wide*>(spectrum + place);
#pragma unroll
    for (int k = 0; k < 2 * kPixels; ++k) value.value[k] *= scale.value[k / 2];
    *reinterpret_cast<Wide*>(y + place) = value;
  }
}

}  // namespace toeplitz
}  // namespace sagittal

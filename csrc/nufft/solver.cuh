// cg_step on CUDA: kernels on raw pointers, see csrc/README.md.
//
// A batch element of n numbers is cut into at most kMaxChunks chunks, one block each. A sum is
// taken in two stages, always in the same order: each block leaves the sum of its chunk in `parts`,
// and every block of the next kernel adds these up for itself, 8 KB at most from the second-level
// cache. So an update is three launches and no kernel waits for another one. Sums are in double
// precision.
//
// Bytes for each of B n numbers of s bytes: curvature reads 2 s; move reads 4 s, writes 2 s; turn
// reads 2 s, writes s: 11 s in all for 10 Flop, 0.23 Flop a byte in float32. Memory bounds it: an
// H100 (3.35 TB/s) needs 14 us for n = 2^20 in float32, launches apart.
#pragma once

#include "../common/device.cuh"

namespace sagittal {
namespace solver {

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // an SM at least: 64 registers; left to itself, ptxas spills to keep 32
constexpr int kMaxChunks = 1024;
constexpr int64_t kMinChunk = 2048;  // numbers
constexpr int kMaxElements = 65535;  // of a batch in one launch: the limit of a grid's y

// How B vectors of n numbers are cut up. Chunks begin at multiples of 16 bytes.
struct Chunks {
  int64_t n, each;
  int count;
};

// Tests ask for other limits.
inline Chunks cut(int64_t n, int64_t least = kMinChunk, int64_t most = kMaxChunks) {
  int64_t each = (n + most - 1) / most;
  each = each < least ? least : (each + 3) / 4 * 4;
  const int64_t count = (n + each - 1) / each;
  return {n, each, count < 1 ? 1 : static_cast<int>(count)};
}

template <class T>
struct Vectors {  // (B, n) each
  const T *x, *r, *p, *q;
  const T *rs, *stop;  // (B,)
  T *next_x, *next_r, *next_p, *next_rs;
};

// Calls step(begin, pack size as a type) over the chunk of this block, in packs of 16 bytes if
// every row begins at a multiple of that.
template <class T, class Step>
__device__ __forceinline__ void for_packs(const Chunks& c, bool aligned, const Step& step) {
  constexpr int kPack = 16 / sizeof(T);
  const int64_t row = static_cast<int64_t>(blockIdx.y) * c.n;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * c.each;
  const int64_t end = begin + c.each < c.n ? begin + c.each : c.n;
  if (aligned) {  // then c.n is a multiple of kPack
    for (int64_t i = begin + threadIdx.x * kPack; i < end; i += kThreads * kPack)
      step(row + i, Numbers<T, kPack>{});
  } else {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) step(row + i, Numbers<T, 1>{});
  }
}

template <class Pack, class T>
__device__ __forceinline__ Pack take(const T* from, int64_t at) {
  return *reinterpret_cast<const Pack*>(from + at);
}

// The sum of a batch element's parts.
__device__ __forceinline__ double add_parts(const double* parts, int count, double* room) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads)
    sum += parts[static_cast<int64_t>(blockIdx.y) * count + i];
  return block_sum<kThreads>(sum, room);
}

// parts (B, count) of <p, q>
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    curvature(Chunks c, bool aligned, Vectors<T> v, double* parts) {
  __shared__ double room[kThreads / 32];
  double sum = 0;
  for_packs<T>(c, aligned, [&](int64_t at, auto pack) {
    const auto p = take<decltype(pack)>(v.p, at), q = take<decltype(pack)>(v.q, at);
#pragma unroll
    for (int k = 0; k < static_cast<int>(sizeof(pack) / sizeof(T)); ++k)
      sum += static_cast<double>(p.value[k]) * static_cast<double>(q.value[k]);
  });
  const double total = block_sum<kThreads>(sum, room);
  if (threadIdx.x == 0) parts[static_cast<int64_t>(blockIdx.y) * c.count + blockIdx.x] = total;
}

// A batch element that does not move: converged, or without curvature. NaN is neither.
template <class T>
__device__ __forceinline__ bool is_frozen(const Vectors<T>& v, T curvature) {
  return v.rs[blockIdx.y] <= v.stop[blockIdx.y] || curvature <= T(0);
}

// x and r one step on; norms (B, count): the parts of the new <r, r>.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    move(Chunks c, bool aligned, Vectors<T> v, const double* curvatures, double* norms) {
  __shared__ double room[2][kThreads / 32];
  const T bend = static_cast<T>(add_parts(curvatures, c.count, room[0]));
  const bool frozen = is_frozen(v, bend);
  const T alpha = v.rs[blockIdx.y] / bend;
  double sum = 0;
  for_packs<T>(c, aligned, [&](int64_t at, auto pack) {
    using Pack = decltype(pack);
    Pack x = take<Pack>(v.x, at), r = take<Pack>(v.r, at);
    if (!frozen) {
      const Pack p = take<Pack>(v.p, at), q = take<Pack>(v.q, at);
#pragma unroll
      for (int k = 0; k < static_cast<int>(sizeof(Pack) / sizeof(T)); ++k) {
        x.value[k] += alpha * p.value[k];
        r.value[k] -= alpha * q.value[k];
        sum += static_cast<double>(r.value[k]) * static_cast<double>(r.value[k]);
      }
    }
    *reinterpret_cast<Pack*>(v.next_x + at) = x;
    *reinterpret_cast<Pack*>(v.next_r + at) = r;
  });
  const double total = block_sum<kThreads>(sum, room[1]);
  if (threadIdx.x == 0) norms[static_cast<int64_t>(blockIdx.y) * c.count + blockIdx.x] = total;
}

// The next direction and the next squared norm.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    turn(Chunks c, bool aligned, Vectors<T> v, const double* curvatures, const double* norms) {
  __shared__ double room[2][kThreads / 32];
  const T bend = static_cast<T>(add_parts(curvatures, c.count, room[0]));
  const T norm = static_cast<T>(add_parts(norms, c.count, room[1]));
  const bool frozen = is_frozen(v, bend);
  const T beta = norm / v.rs[blockIdx.y];
  for_packs<T>(c, aligned, [&](int64_t at, auto pack) {
    using Pack = decltype(pack);
    Pack p = take<Pack>(v.p, at);
    if (!frozen) {
      const Pack r = take<Pack>(v.next_r, at);
#pragma unroll
      for (int k = 0; k < static_cast<int>(sizeof(Pack) / sizeof(T)); ++k)
        p.value[k] = r.value[k] + beta * p.value[k];
    }
    *reinterpret_cast<Pack*>(v.next_p + at) = p;
  });
  if (blockIdx.x == 0 && threadIdx.x == 0) v.next_rs[blockIdx.y] = frozen ? v.rs[blockIdx.y] : norm;
}

}  // namespace solver
}  // namespace sagittal

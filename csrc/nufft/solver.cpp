// The conjugate-gradient update on the CPU. The specification is sagittal_core/ops/reference.py.
// Sums run over fixed chunks that are combined in order: the same bits on any thread count.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "../common/isa.h"
#include "checks.h"

namespace sagittal {
namespace {

constexpr int64_t kChunk = 2048;

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}
template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// Calls f(batch, begin, end) for every chunk of `pixels` of every batch element.
template <class F>
void for_chunks(int64_t batch, int64_t pixels, const F& f) {
  const int64_t chunks = (pixels + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, batch * chunks, 4, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t begin = task % chunks * kChunk;
      f(task / chunks, begin, std::min(pixels, begin + kChunk));
    }
  });
}

// Inner products per batch element in double precision, chunk by chunk.
template <class F>
std::vector<double> chunked_sums(int64_t batch, int64_t n, const F& sum) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  std::vector<double> parts(batch * chunks, 0.0), total(batch, 0.0);
  for_chunks(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    parts[b * chunks + begin / kChunk] = sum(b, begin, end);
  });
  for (int64_t i = 0; i < batch * chunks; ++i) total[i / chunks] += parts[i];
  return total;
}

// Sum of a[i] b[i] in kLanes interleaved partial sums: independent chains, one fixed order.
template <class T>
double dot(const T* a, const T* b, int64_t n) {
  constexpr int kLanes = 8;
  double lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) lane[k] += double(a[i + k]) * double(b[i + k]);
  for (; i < n; ++i) lane[i % kLanes] += double(a[i]) * double(b[i]);
  return std::accumulate(lane, lane + kLanes, 0.0);
}

template <class T>
void step(const Tensor& x, const Tensor& r, const Tensor& p, const Tensor& q, const Tensor& rs,
          const Tensor& stop, Tensor& x1, Tensor& r1, Tensor& p1, Tensor& rs1) {
  const int64_t batch = x.size(0), n = x.size(1);
  const T *xs = in<T>(x), *res = in<T>(r), *dir = in<T>(p), *act = in<T>(q);
  const T *norm0 = in<T>(rs), *limit = in<T>(stop);
  T *next_x = out<T>(x1), *next_r = out<T>(r1), *next_p = out<T>(p1), *norm1 = out<T>(rs1);
  const auto curvature = chunked_sums(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    return dot(dir + b * n + begin, act + b * n + begin, end - begin);
  });
  std::vector<char> frozen(batch);
  for (int64_t b = 0; b < batch; ++b) frozen[b] = norm0[b] <= limit[b] || T(curvature[b]) <= T(0);
  const auto norm = chunked_sums(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    const int64_t from = b * n + begin, to = b * n + end;
    if (frozen[b]) {
      std::copy(xs + from, xs + to, next_x + from);
      std::copy(res + from, res + to, next_r + from);
      return 0.0;
    }
    const T alpha = norm0[b] / T(curvature[b]);
    for (int64_t i = from; i < to; ++i) {
      next_x[i] = xs[i] + alpha * dir[i];
      next_r[i] = res[i] - alpha * act[i];
    }
    return dot(next_r + from, next_r + from, end - begin);
  });
  for (int64_t b = 0; b < batch; ++b) norm1[b] = frozen[b] ? norm0[b] : T(norm[b]);
  for_chunks(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    const int64_t from = b * n + begin, to = b * n + end;
    if (frozen[b]) {
      std::copy(dir + from, dir + to, next_p + from);
      return;
    }
    const T beta = T(norm[b]) / norm0[b];
    for (int64_t i = from; i < to; ++i) next_p[i] = next_r[i] + beta * dir[i];
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cg_step_cpu(const Tensor& x_in, const Tensor& r_in,
                                                       const Tensor& p_in, const Tensor& q_in,
                                                       const Tensor& rs_in, const Tensor& stop_in) {
  count_call();
  const Tensor x = torch::stable::contiguous(x_in), r = torch::stable::contiguous(r_in);
  const Tensor p = torch::stable::contiguous(p_in), q = torch::stable::contiguous(q_in);
  const Tensor rs = torch::stable::contiguous(rs_in), stop = torch::stable::contiguous(stop_in);
  check_step(x, r, p, q, rs, stop);
  Tensor x1 = torch::stable::empty_like(x), r1 = torch::stable::empty_like(r);
  Tensor p1 = torch::stable::empty_like(p), rs1 = torch::stable::empty_like(rs);
  if (x.scalar_type() == ScalarType::Double)
    step<double>(x, r, p, q, rs, stop, x1, r1, p1, rs1);
  else
    step<float>(x, r, p, q, rs, stop, x1, r1, p1, rs1);
  return {x1, r1, p1, rs1};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("cg_step", TORCH_BOX(&sagittal::cg_step_cpu));
}

// cg_step on CUDA: checks, memory and launches. The kernels are in solver.cuh.
#include <tuple>

#include "../common/launch.h"
#include "checks.h"
#include "solver.cuh"

namespace sagittal {
namespace {

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}
template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <class T>
void step(const Tensor& x, const Tensor& r, const Tensor& p, const Tensor& q, const Tensor& rs,
          const Tensor& stop, Tensor& x1, Tensor& r1, Tensor& p1, Tensor& rs1) {
  const cudaStream_t stream = current_stream(x);
  const int64_t batch = x.size(0), n = x.size(1);
  const solver::Chunks chunks = solver::cut(n);
  bool aligned = n % (16 / sizeof(T)) == 0;
  for (const Tensor* t : {&x, &r, &p, &q, static_cast<const Tensor*>(&x1),
                          static_cast<const Tensor*>(&r1), static_cast<const Tensor*>(&p1)})
    aligned = aligned && reinterpret_cast<uintptr_t>(t->data_ptr()) % 16 == 0;
  Tensor parts = torch::stable::new_empty(x, {2, batch, chunks.count}, ScalarType::Double);
  for (int64_t first = 0; first < batch; first += solver::kMaxElements) {
    const int64_t at = first * n, rest = batch - first;
    const dim3 grid(chunks.count, rest < solver::kMaxElements ? rest : solver::kMaxElements);
    const solver::Vectors<T> v = {in<T>(x) + at,      in<T>(r) + at,     in<T>(p) + at,
                                  in<T>(q) + at,      in<T>(rs) + first, in<T>(stop) + first,
                                  out<T>(x1) + at,    out<T>(r1) + at,   out<T>(p1) + at,
                                  out<T>(rs1) + first};
    double* const curvatures = out<double>(parts) + first * chunks.count;
    double* const norms = curvatures + batch * chunks.count;
    solver::curvature<T><<<grid, solver::kThreads, 0, stream>>>(chunks, aligned, v, curvatures);
    check_cuda(cudaGetLastError());
    solver::move<T><<<grid, solver::kThreads, 0, stream>>>(chunks, aligned, v, curvatures, norms);
    check_cuda(cudaGetLastError());
    solver::turn<T><<<grid, solver::kThreads, 0, stream>>>(chunks, aligned, v, curvatures, norms);
    check_cuda(cudaGetLastError());
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cg_step_cuda(const Tensor& x_in, const Tensor& r_in,
                                                        const Tensor& p_in, const Tensor& q_in,
                                                        const Tensor& rs_in,
                                                        const Tensor& stop_in) {
  check_step(x_in, r_in, p_in, q_in, rs_in, stop_in);
  for (const Tensor* t : {&r_in, &p_in, &q_in}) check_device(*t, x_in, "r, p and q");
  for (const Tensor* t : {&rs_in, &stop_in}) check_device(*t, x_in, "rs and stop");
  torch::stable::accelerator::DeviceGuard guard(x_in.get_device_index());
  const Tensor x = torch::stable::contiguous(x_in), r = torch::stable::contiguous(r_in);
  const Tensor p = torch::stable::contiguous(p_in), q = torch::stable::contiguous(q_in);
  const Tensor rs = torch::stable::contiguous(rs_in), stop = torch::stable::contiguous(stop_in);
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

STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m) {
  m.impl("cg_step", TORCH_BOX(&sagittal::cg_step_cuda));
}

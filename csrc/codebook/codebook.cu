// codebook_lookup on CUDA: checks, memory and launches. The kernels are in codebook.cuh.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "codebook.cuh"

namespace sagittal {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void check_cuda(cudaError_t code) {
  STD_TORCH_CHECK(code == cudaSuccess, "codebook_lookup: ", cudaGetErrorString(code));
}

bool is_aligned(const Tensor& tensor, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0 &&
         tensor.size(1) * bytes % 16 == 0;
}

// z and codebook are contiguous, of one dtype, which S stands for.
template <class T, class S, int kMicro>
void lookup(const Tensor& z, const Tensor& codebook, const std::optional<Tensor>& bias, int64_t k,
            Tensor& scores, Tensor& indices, cudaStream_t stream) {
  const int64_t rows = z.size(0), size = codebook.size(0), width = z.size(1);
  Tensor offset = torch::stable::new_empty(scores, {size});
  Tensor found = torch::stable::new_zeros(indices, {2});  // 16 bytes, for Faults
  auto* faults = reinterpret_cast<codebook::Faults*>(found.data_ptr());
  const T* given = bias.has_value() ? static_cast<const T*>(bias->data_ptr()) : nullptr;
  const bool shared = bias.has_value() && bias->dim() == 1;
  const S* codes = static_cast<const S*>(codebook.data_ptr());
  T* offsets = static_cast<T*>(offset.data_ptr());
  constexpr int kWarps = codebook::kThreads / 32;
  codebook::offsets<T, S><<<(size + kWarps - 1) / kWarps, codebook::kThreads, 0, stream>>>(
      codes, shared ? given : nullptr, size, width, offsets, faults);
  check_cuda(cudaGetLastError());
  const codebook::Lookup<S> problem = {static_cast<const S*>(z.data_ptr()),
                                       codes,
                                       rows,
                                       size,
                                       width,
                                       is_aligned(z, sizeof(S)) && is_aligned(codebook, sizeof(S))};
  const int64_t blocks = (rows + 16 * kMicro - 1) / (16 * kMicro);
  for (int64_t pass = 0; pass < k && blocks > 0; ++pass) {
    codebook::lookup<T, S, kMicro><<<blocks, codebook::kThreads, 0, stream>>>(
        problem, offsets, shared ? nullptr : given, k, pass, static_cast<T*>(scores.data_ptr()),
        static_cast<int64_t*>(indices.data_ptr()), faults);
    check_cuda(cudaGetLastError());
  }
  codebook::Faults seen;
  check_cuda(cudaMemcpyAsync(&seen, faults, sizeof(seen), cudaMemcpyDeviceToHost, stream));
  check_cuda(cudaStreamSynchronize(stream));  // an error must be raised here, not later
  STD_TORCH_CHECK(seen.codes == 0, "codebook holds NaN or infinity");
  STD_TORCH_CHECK(seen.rows == 0, "z holds NaN or infinity");
  STD_TORCH_CHECK(seen.bias == 0, "bias holds NaN or +inf");
}

std::tuple<Tensor, Tensor> codebook_lookup_cuda(const Tensor& z_in, const Tensor& codebook_in,
                                                const std::optional<Tensor>& bias_in, int64_t k) {
  STD_TORCH_CHECK(z_in.dim() == 2 && codebook_in.dim() == 2 && z_in.size(1) == codebook_in.size(1),
                  "z must be (N, D) and codebook (K, D)");
  STD_TORCH_CHECK(k >= 1 && k <= codebook_in.size(0), "k must be in [1, K]");
  STD_TORCH_CHECK(codebook_in.size(0) < codebook::kNone, "codebook has too many codes");
  STD_TORCH_CHECK(
      codebook_in.is_cuda() && codebook_in.get_device_index() == z_in.get_device_index(),
      "z and codebook must be on one device");
  torch::stable::accelerator::DeviceGuard guard(z_in.get_device_index());
  const auto handle =
      torch::stable::accelerator::getCurrentStream(z_in.get_device_index()).nativeHandle();
  const auto stream = static_cast<cudaStream_t>(handle);
  const bool same = z_in.scalar_type() == codebook_in.scalar_type();
  const bool wide =
      z_in.scalar_type() == ScalarType::Double || codebook_in.scalar_type() == ScalarType::Double;
  const ScalarType type = wide ? ScalarType::Double : ScalarType::Float;
  const Tensor z = torch::stable::contiguous(same ? z_in : torch::stable::to(z_in, type));
  const Tensor codebook =
      torch::stable::contiguous(same ? codebook_in : torch::stable::to(codebook_in, type));
  std::optional<Tensor> bias;
  if (bias_in.has_value()) {
    bias = torch::stable::contiguous(*bias_in);
    STD_TORCH_CHECK(bias->scalar_type() == type && bias->is_cuda() &&
                        bias->get_device_index() == z.get_device_index(),
                    "bias must have the dtype of the scores and the device of z");
    const bool shared = bias->dim() == 1 && bias->size(0) == codebook.size(0);
    STD_TORCH_CHECK(shared || (bias->dim() == 2 && bias->size(0) == z.size(0) &&
                               bias->size(1) == codebook.size(0)),
                    "bias must be (K,) or (N, K)");
  }
  Tensor scores = torch::stable::new_empty(z, {z.size(0), k}, type);
  Tensor indices = torch::stable::new_empty(z, {z.size(0), k}, ScalarType::Long);
  switch (z.scalar_type()) {
    case ScalarType::Float:
      lookup<float, float, 8>(z, codebook, bias, k, scores, indices, stream);
      break;
    case ScalarType::Double:
      lookup<double, double, 4>(z, codebook, bias, k, scores, indices, stream);
      break;
    case ScalarType::Half:
      lookup<float, codebook::Half, 8>(z, codebook, bias, k, scores, indices, stream);
      break;
    case ScalarType::BFloat16:
      lookup<float, codebook::BFloat16, 8>(z, codebook, bias, k, scores, indices, stream);
      break;
    default:
      STD_TORCH_CHECK(false, "z must be float32, float64, float16 or bfloat16");
  }
  return {scores, indices};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m) {
  m.impl("codebook_lookup", TORCH_BOX(&sagittal::codebook_lookup_cuda));
}

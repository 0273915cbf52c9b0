// codebook_lookup and codebook_sums on CUDA: checks, memory and launches. The kernels are in
// codebook.cuh and tensor.cuh.
#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>

#include "../common/launch.h"
#include "codebook.cuh"
#include "tensor.cuh"

namespace sagittal {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Whether SAGITTAL_TENSOR_CORES asks for them, which this GPU must then have.
bool wants_tensor_cores(int device) {
  const char* const given = std::getenv("SAGITTAL_TENSOR_CORES");
  const std::string wanted = given == nullptr ? "0" : given;
  STD_TORCH_CHECK(wanted == "0" || wanted == "1", "SAGITTAL_TENSOR_CORES must be 0 or 1; got ",
                  wanted);
  if (wanted == "0") return false;
  int major = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  STD_TORCH_CHECK(major >= 8, "SAGITTAL_TENSOR_CORES=1 needs compute capability 8.0; this GPU has ",
                  major, ".x");
  return true;
}

// The best code of each row: candidates by tensor cores, then the ordinary kernel's own sums.
template <class S>
void tensor_lookup(codebook::Lookup<S> problem, const float* offset, const float* row_bias,
                   Tensor& scores, Tensor& indices, codebook::Faults* faults, cudaStream_t stream) {
  using namespace codebook;
  const int64_t rows = problem.rows, tiles = (problem.size + kTile - 1) / kTile;
  const Margins margins = margins_of<S>(problem.width);
  Tensor bounds = torch::stable::new_empty(scores, {tiles * kTile, 2});
  Tensor lengths = torch::stable::new_empty(scores, {tiles * kTile});
  Tensor longest = torch::stable::new_empty(scores, {tiles});
  Tensor limits = torch::stable::new_empty(scores, {rows});
  Tensor kept = torch::stable::new_empty(indices, {rows, 2, kKept});
  Tensor counts = torch::stable::new_empty(indices, {rows, 2}, ScalarType::Int);
  Tensor listed = torch::stable::new_empty(indices, {rows});
  Tensor listed_count = torch::stable::new_zeros(indices, {1});
  const Codes codes = {static_cast<Bounds*>(bounds.data_ptr()),
                       static_cast<float*>(lengths.data_ptr()),
                       static_cast<float*>(longest.data_ptr())};
  auto* const list = static_cast<int64_t*>(listed.data_ptr());
  auto* const list_size = static_cast<unsigned long long*>(listed_count.data_ptr());
  auto* const score = static_cast<float*>(scores.data_ptr());
  auto* const index = static_cast<int64_t*>(indices.data_ptr());
  const Candidates found = {static_cast<Candidate*>(kept.data_ptr()),
                            static_cast<unsigned*>(counts.data_ptr()),
                            static_cast<float*>(limits.data_ptr())};
  measure_codes<S><<<grid_size(tiles), kThreads, 0, stream>>>(
      problem.codebook, offset, problem.size, problem.width, margins.tiny, codes);
  check_cuda(cudaGetLastError());
  int limit = 0;
  check_cuda(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                    scores.get_device_index()));
  const int slots = row_slots<S>(problem.width, limit), shared = shared_bytes(slots);
  const unsigned blocks = grid_size((rows + kTile - 1) / kTile);
  auto find = [&](auto kernel) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    kernel<<<blocks, kThreads, shared, stream>>>(problem, margins, slots, codes, row_bias, found,
                                                 faults);
    check_cuda(cudaGetLastError());
  };
  if (row_bias != nullptr)
    find(find_candidates<S, true>);
  else
    find(find_candidates<S, false>);
  rescore<S><<<grid_size((rows + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      problem, offset, row_bias, found, score, index, list, list_size);
  check_cuda(cudaGetLastError());
  problem.listed = list;
  problem.listed_count = list_size;
  codebook::lookup<float, S, 8, true>
      <<<blocks, kThreads, 0, stream>>>(problem, offset, row_bias, 1, 0, score, index, faults);
  check_cuda(cudaGetLastError());
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
  int64_t blocks = (rows + 16 * kMicro - 1) / (16 * kMicro);
  const bool tensor_cores = wants_tensor_cores(z.get_device_index());
  if constexpr (std::is_same_v<T, float>) {
    if (tensor_cores && k == 1 && blocks > 0) {
      tensor_lookup<S>(problem, offsets, shared ? nullptr : given, scores, indices, faults, stream);
      blocks = 0;
    }
  }
  for (int64_t pass = 0; pass < k && blocks > 0; ++pass) {
    codebook::lookup<T, S, kMicro><<<blocks, codebook::kThreads, 0, stream>>>(
        problem, offsets, shared ? nullptr : given, k, pass, static_cast<T*>(scores.data_ptr()),
        static_cast<int64_t*>(indices.data_ptr()), faults);
    check_cuda(cudaGetLastError());
  }
  const codebook::Faults seen = read_back(faults, stream);
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
  check_device(codebook_in, z_in, "codebook");
  torch::stable::accelerator::DeviceGuard guard(z_in.get_device_index());
  const cudaStream_t stream = current_stream(z_in);
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
    check_device(*bias, z_in, "bias");
    STD_TORCH_CHECK(bias->scalar_type() == type, "bias must have the dtype of the scores");
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

template <class T, class S>
void sums(const Tensor& z, const Tensor& indices, Tensor& result, Tensor& counts,
          cudaStream_t stream) {
  const int64_t rows = z.size(0), width = z.size(1), size = counts.size(0);
  const int64_t chunks = (rows + codebook::kChunk - 1) / codebook::kChunk;
  const auto [sorted, order] = stable_sort(indices);
  Tensor begins = torch::stable::new_empty(indices, {size + 1});
  Tensor partials = torch::stable::new_empty(result, {chunks, 2, width});
  Tensor flag = torch::stable::new_zeros(indices, {1});
  const auto* codes = static_cast<const int64_t*>(sorted.data_ptr());
  auto* begin = static_cast<int64_t*>(begins.data_ptr());
  codebook::count_rows<<<size / codebook::kThreads + 1, codebook::kThreads, 0, stream>>>(
      codes, rows, size, begin, static_cast<int64_t*>(counts.data_ptr()),
      static_cast<int*>(flag.data_ptr()));
  check_cuda(cudaGetLastError());
  // A warp at least, a thread a dimension at most.
  const int64_t threads = std::min<int64_t>(codebook::kThreads, (width + 31) / 32 * 32);
  if (width > 0 && chunks > 0) {
    codebook::sum_chunks<T, S><<<chunks, threads, 0, stream>>>(
        static_cast<const S*>(z.data_ptr()), static_cast<const int64_t*>(order.data_ptr()), codes,
        begin, rows, size, width, static_cast<T*>(partials.data_ptr()),
        static_cast<T*>(result.data_ptr()));
    check_cuda(cudaGetLastError());
  }
  if (width > 0) {
    codebook::join_chunks<T>
        <<<size, threads, 0, stream>>>(begin, width, static_cast<const T*>(partials.data_ptr()),
                                       static_cast<T*>(result.data_ptr()));
    check_cuda(cudaGetLastError());
  }
  const int out_of_range = read_back(static_cast<const int*>(flag.data_ptr()), stream);
  STD_TORCH_CHECK(out_of_range == 0, "indices must be in [0, ", size, ")");
}

std::tuple<Tensor, Tensor> codebook_sums_cuda(const Tensor& z_in, const Tensor& indices_in,
                                              int64_t size) {
  STD_TORCH_CHECK(z_in.dim() == 2 && size >= 1, "z must be (M, D) and size >= 1");
  STD_TORCH_CHECK(indices_in.scalar_type() == ScalarType::Long && indices_in.dim() == 1 &&
                      indices_in.size(0) == z_in.size(0) && indices_in.is_cuda() &&
                      indices_in.get_device_index() == z_in.get_device_index(),
                  "indices must be (M,) int64 on the device of z (M, D)");
  torch::stable::accelerator::DeviceGuard guard(z_in.get_device_index());
  const cudaStream_t stream = current_stream(z_in);
  const Tensor z = torch::stable::contiguous(z_in);
  const Tensor indices = torch::stable::contiguous(indices_in);
  const bool wide = z.scalar_type() == ScalarType::Double;
  Tensor result =
      torch::stable::new_empty(z, {size, z.size(1)}, wide ? ScalarType::Double : ScalarType::Float);
  Tensor counts = torch::stable::new_empty(z, {size}, ScalarType::Long);
  switch (z.scalar_type()) {
    case ScalarType::Float:
      sums<float, float>(z, indices, result, counts, stream);
      break;
    case ScalarType::Double:
      sums<double, double>(z, indices, result, counts, stream);
      break;
    case ScalarType::Half:
      sums<float, codebook::Half>(z, indices, result, counts, stream);
      break;
    case ScalarType::BFloat16:
      sums<float, codebook::BFloat16>(z, indices, result, counts, stream);
      break;
    default:
      STD_TORCH_CHECK(false, "z must be float32, float64, float16 or bfloat16");
  }
  return {result, counts};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m) {
  m.impl("codebook_lookup", TORCH_BOX(&sagittal::codebook_lookup_cuda));
  m.impl("codebook_sums", TORCH_BOX(&sagittal::codebook_sums_cuda));
}

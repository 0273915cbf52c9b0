// What the CUDA launchers share, on the stable ABI.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

namespace sagittal {

inline void check_cuda(cudaError_t code) {
  STD_TORCH_CHECK(code == cudaSuccess, "CUDA: ", cudaGetErrorString(code));
}

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  const auto stream = torch::stable::accelerator::getCurrentStream(tensor.get_device_index());
  return static_cast<cudaStream_t>(stream.nativeHandle());
}

// Blocks along x, of which a launch has fewer than 2^31.
inline unsigned grid_size(int64_t blocks) {
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "a launch of ", blocks, " blocks is too large");
  return static_cast<unsigned>(blocks);
}

// Rows of a contiguous matrix begin at multiples of 16 bytes; `bytes` are those of a number.
inline bool is_aligned(const torch::stable::Tensor& tensor, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0 &&
         tensor.size(-1) * bytes % 16 == 0;
}

inline void check_device(const torch::stable::Tensor& tensor, const torch::stable::Tensor& like,
                         const char* name) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == like.get_device_index(), name,
                  " must be on the device of the other arguments");
}

// Copies one number from the device; waits for the stream, so that an error can be raised here.
template <class T>
T read_back(const T* device, cudaStream_t stream) {
  T value;
  check_cuda(cudaMemcpyAsync(&value, device, sizeof(T), cudaMemcpyDeviceToHost, stream));
  check_cuda(cudaStreamSynchronize(stream));
  return value;
}

// Values and order of a stable ascending sort; the stable ABI wraps no sort.
inline std::tuple<torch::stable::Tensor, torch::stable::Tensor> stable_sort(
    const torch::stable::Tensor& tensor) {
  using torch::stable::Tensor;
  std::array<StableIValue, 4> stack = {
      torch::stable::detail::from(tensor), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t(0)), torch::stable::detail::from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

}  // namespace sagittal

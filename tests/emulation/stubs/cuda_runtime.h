// CUDA's runtime for the launchers (csrc/**/*.cu) on CPU tensors: memory is the host's, a launch
// runs the kernel on fibers before it returns. SAGITTAL_EMULATE_ORDER (0, 1, 2: forward, reverse,
// shuffled) chooses the order of the threads. Every .cu is compiled with this file in front, after
// emulated_ops.py has rewritten its launches.
#pragma once

#include <cstdlib>

#include "../cuda_emulator.h"

namespace emulator {
inline int64_t calls = 0;  // of this runtime
}

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrMaxSharedMemoryPerBlockOptin };

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  *value = what == cudaDevAttrComputeCapabilityMajor ? 8 : 99 * 1024;  // as of 8.6
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  ++emulator::calls;
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  ++emulator::calls;
  if (bytes > 0) std::memset(to, value, bytes);
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}

namespace emulator {

inline dim3 to_dim3(dim3 size) { return size; }
inline dim3 to_dim3(int64_t size) { return {static_cast<unsigned>(size)}; }

// kernel<<<grid, block, shared, stream>>>(arguments)
struct Launch {
  dim3 grid, block;

  template <class Grid, class Block>
  Launch(Grid grid_in, Block block_in, size_t shared = 0, cudaStream_t = nullptr)
      : grid(to_dim3(grid_in)), block(to_dim3(block_in)) {
    if (uint64_t(grid.x) * grid.y * grid.z == 0 || block.x * block.y * block.z == 0)
      throw std::runtime_error("a launch without threads, which CUDA refuses");
    set_dynamic_shared(shared);
  }
  template <class Kernel, class... Args>
  void run(Kernel kernel, Args... args) const {
    static const char* const wanted = std::getenv("SAGITTAL_EMULATE_ORDER");
    const auto order = static_cast<Order>(wanted == nullptr ? 0 : std::atoi(wanted));
    launch(grid, block, order, static_cast<unsigned>(calls++), kernel, args...);
  }
};

struct Stream {
  void* nativeHandle() const { return nullptr; }
};
struct Guard {
  explicit Guard(int) {}
};
inline Stream current_stream(int) { return {}; }

}  // namespace emulator

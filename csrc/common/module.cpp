// The extension module: the ABI number, the instruction set, and an empty Python module whose
// import runs the registrations of every source.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "isa.h"

// Equal to ABI_VERSION in sagittal_core/ops/_library.py.
#define SAGITTAL_ABI 6
#define SAGITTAL_STRING(x) #x
#define SAGITTAL_EXPAND(x) SAGITTAL_STRING(x)

// Read from the file before it is loaded: registrations can't be taken back.
extern "C" __attribute__((visibility("default"), used)) const char sagittal_kernels_abi[] =
    "sagittal_kernels_abi=" SAGITTAL_EXPAND(SAGITTAL_ABI) ";";

namespace sagittal {
namespace {

std::atomic<int64_t> calls{0};

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw");
  const char* wanted = std::getenv("SAGITTAL_ISA");
  if (wanted != nullptr && std::strcmp(wanted, "portable") == 0) return Isa::kPortable;
  if (wanted != nullptr && std::strcmp(wanted, "avx2") == 0 && avx2) return Isa::kAvx2;
  return avx512 ? Isa::kAvx512 : avx2 ? Isa::kAvx2 : Isa::kPortable;
#else
  return Isa::kPortable;
#endif
}

int64_t abi_version() { return SAGITTAL_ABI; }
int64_t cpu_isa() { return static_cast<int64_t>(isa()); }

}  // namespace

Isa isa() {
  static const Isa found = detect();
  return found;
}

void count_call() { calls.fetch_add(1, std::memory_order_relaxed); }
int64_t call_count() { return calls.load(std::memory_order_relaxed); }

}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CompositeExplicitAutograd, m) {
  m.impl("_abi_version", TORCH_BOX(&sagittal::abi_version));
  m.impl("_cpu_isa", TORCH_BOX(&sagittal::cpu_isa));
  m.impl("_native_call_count", TORCH_BOX(&sagittal::call_count));
}

PyMODINIT_FUNC PyInit__C_cpu(void) {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C_cpu", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}

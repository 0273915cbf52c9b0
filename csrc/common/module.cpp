// The extension module: the ABI number, the instruction set, and an empty Python module whose
// import runs the registrations of every source.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "abi.h"
#include "isa.h"

SAGITTAL_ABI_MARKER;

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

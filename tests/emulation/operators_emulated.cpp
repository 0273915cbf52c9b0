// What the fuzzer asks of a library of compiled operators.
#include <torch/csrc/stable/library.h>

namespace {

int64_t calls() { return emulator::calls; }
int64_t no_isa() { return 0; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sagittal, CompositeExplicitAutograd, m) {
  m.impl("_native_call_count", TORCH_BOX(&calls));
  m.impl("_cpu_isa", TORCH_BOX(&no_isa));
}

// The ABI number of both modules, equal to ABI_VERSION in sagittal_core/ops/_library.py.
#pragma once

#define SAGITTAL_ABI 6
#define SAGITTAL_STRING(x) #x
#define SAGITTAL_EXPAND(x) SAGITTAL_STRING(x)

// Read from the file before it is loaded: registrations can't be taken back.
#define SAGITTAL_ABI_MARKER                                                                   \
  extern "C" __attribute__((visibility("default"), used)) const char sagittal_kernels_abi[] = \
      "sagittal_kernels_abi=" SAGITTAL_EXPAND(SAGITTAL_ABI) ";"

// The extension module of the CUDA kernels: the ABI number and an empty Python module whose import
// runs the registrations of every source.
#include <Python.h>

#include "abi.h"

SAGITTAL_ABI_MARKER;

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C_cuda(void) {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr};
  return PyModule_Create(&definition);
}

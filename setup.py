"""Builds csrc/ into the distribution sagittal-kernels: abi3 modules and nothing else.

torch is imported only when something is compiled, so that metadata can be read without it.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
import build_config

ROOT = Path(__file__).resolve().parent
BUILDS = {"build", "build_ext", "bdist_wheel", "install", "editable_wheel"}


def build_arguments() -> dict:
    """Arguments of setup() for a command that compiles."""
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    cpu = CppExtension(
        "sagittal_kernels._C_cpu",
        build_config.CPU_SOURCES,
        extra_compile_args=build_config.CXX_FLAGS,
        extra_link_args=build_config.LINK_FLAGS,
        py_limited_api=True,
    )
    cuda = Extension("sagittal_kernels._C_cuda", [], py_limited_api=True)

    class Build(BuildExtension):
        def build_extension(self, extension: Extension) -> None:
            if extension is not cuda:
                return super().build_extension(extension)
            library = Path(self.get_ext_fullpath(extension.name)).resolve()
            library.parent.mkdir(parents=True, exist_ok=True)
            wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", build_config.CUDA_ARCHITECTURES)
            build_config.build_cuda(ROOT, library, Path(torch.__file__).parent, wanted)

    return {
        "ext_modules": [cpu, cuda] if with_cuda(torch) else [cpu],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def with_cuda(torch: object) -> bool:
    """Whether the second module is built."""
    if not build_config.wants_cuda(torch.cuda.is_available()):
        return False
    if torch.__version__ >= build_config.CUDA_TORCH:
        return True
    message = f"the CUDA kernels need torch >= 2.13 to be compiled, found {torch.__version__}"
    if os.environ.get("SAGITTAL_CUDA") == "1":
        raise RuntimeError(message)
    sys.stderr.write(f"sagittal-kernels: no CUDA kernels: {message}\n")
    return False


setup(**(build_arguments() if BUILDS & set(sys.argv) else {}))

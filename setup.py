"""Builds csrc/ into the distribution sagittal-kernels: one abi3 module and nothing else.

torch is imported only when something is compiled, so that metadata can be read without it.
"""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
import build_config

BUILDS = {"build", "build_ext", "bdist_wheel", "install", "editable_wheel"}


def build_arguments() -> dict:
    """Arguments of setup() for a command that compiles."""
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    extension = CppExtension(
        "sagittal_kernels._C_cpu",
        build_config.CPU_SOURCES,
        extra_compile_args=build_config.CXX_FLAGS,
        extra_link_args=build_config.LINK_FLAGS,
        py_limited_api=True,
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**(build_arguments() if BUILDS & set(sys.argv) else {}))

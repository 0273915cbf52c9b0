"""The one list of native sources and flags, read by setup.py and by the build on first use.

No -march=native: a wheel must run on every x86-64 machine, so kernels choose their instruction set
at run time. No -ffast-math: NaN and rounding are part of what an operator promises.

torch's extension builder compiles CUDA only beside a torch that was built with CUDA. The stable ABI
needs neither that torch nor its toolkit, so :func:`build_cuda` calls nvcc itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CPU_SOURCES = [
    "csrc/codebook/lookup.cpp",
    "csrc/codebook/sums.cpp",
    "csrc/common/module.cpp",
    "csrc/nufft/fft.cpp",
    "csrc/nufft/gridding.cpp",
    "csrc/nufft/normal.cpp",
    "csrc/nufft/solver.cpp",
    "csrc/nufft/toeplitz.cpp",
    "csrc/sparse/backward.cpp",
    "csrc/sparse/decode.cpp",
    "csrc/sparse/encode.cpp",
    "csrc/sparse/select.cpp",
]
CUDA_SOURCES = [
    "csrc/codebook/codebook.cu",
    "csrc/common/module_cuda.cpp",
    "csrc/nufft/gridding.cu",
    "csrc/nufft/solver.cu",
    "csrc/nufft/toeplitz.cu",
    "csrc/sparse/decode.cu",
    "csrc/sparse/encode.cu",
]

# LibTorch's stable ABI as of 2.10, Python's as of 3.10.
PYTHON_ABI = "-DPy_LIMITED_API=0x030A0000"
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000", PYTHON_ABI]
CXX_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-fvisibility=hidden", *DEFINES]
LINK_FLAGS = ["-fopenmp"]

# The stable ABI of 2.13 is the first with the native handle of a stream.
CUDA_TORCH = (2, 13)
CUDA_DEFINES = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020d000000000000", PYTHON_ABI]
CUDA_FLAGS = ["-O3", "-std=c++20", "-Xcompiler=-fPIC,-fvisibility=hidden", *CUDA_DEFINES]
CUDA_ARCHITECTURES = "8.0;9.0;10.0+PTX"


def wants_cuda(gpu: bool) -> bool:
    """Whether to compile the CUDA kernels: SAGITTAL_CUDA=1, or somebody can use them.

    Compiling them takes minutes, so a toolkit alone is no reason; a GPU or TORCH_CUDA_ARCH_LIST is.

    Args:
        gpu: Whether a GPU is visible.

    Raises:
        ValueError: SAGITTAL_CUDA is not one of 0, 1, auto.
    """
    wanted = os.environ.get("SAGITTAL_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        raise ValueError(f"SAGITTAL_CUDA must be 0, 1 or auto; got {wanted!r}")
    if wanted != "auto":
        return wanted == "1"
    return nvcc() is not None and (gpu or "TORCH_CUDA_ARCH_LIST" in os.environ)


def nvcc() -> str | None:
    """The compiler of CUDA: that of CUDA_HOME, else the one on PATH."""
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")


def code_flags(architectures: str) -> list[str]:
    """Flags of nvcc for a list as in TORCH_CUDA_ARCH_LIST, such as ``8.0;9.0a;10.0+PTX``.

    Raises:
        ValueError: It is empty, or an entry is no number.
    """
    flags = []
    for entry in re.split(r"[;,\s]+", architectures.strip()):
        match = re.fullmatch(r"(\d+)\.(\d[a-z]?)(\+PTX)?", entry)
        if match is None:
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST must be like {CUDA_ARCHITECTURES}; got {entry!r}"
            )
        number = match[1] + match[2]
        codes = f"[sm_{number},compute_{number}]" if match[3] else f"sm_{number}"
        flags.append(f"-gencode=arch=compute_{number},code={codes}")
    return flags


def build_cuda(root: Path, library: Path, torch: Path, architectures: str) -> None:
    """Compile CUDA_SOURCES to the module ``library``.

    CUDA's runtime is linked into it, so that it loads beside any torch, one without CUDA included.

    Args:
        root: The checkout.
        library: Path of the module; its folder exists.
        torch: Folder of the package torch.
        architectures: As in TORCH_CUDA_ARCH_LIST.

    Raises:
        RuntimeError: There is no nvcc, or it fails.
        ValueError: ``architectures`` can't be read.
    """
    compiler = nvcc()
    if compiler is None:
        raise RuntimeError("nvcc is neither in CUDA_HOME nor on PATH")
    include = [f"-isystem={torch}/include", f"-isystem={sysconfig.get_path('include')}"]
    host = ["-ccbin", os.environ["CXX"]] if "CXX" in os.environ else []
    common = [compiler, *host, *code_flags(architectures)]

    def compiled(source: str) -> str:
        target = library.with_name(source.replace("/", "_") + ".o")
        run([*common, *CUDA_FLAGS, *include, "-c", str(root / source), "-o", str(target)])
        return str(target)

    workers = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        objects = list(pool.map(compiled, CUDA_SOURCES))
    torch_libraries = [f"-L{torch}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
    run([*common, "-shared", "-cudart=static", *objects, *torch_libraries, "-o", str(library)])
    for path in objects:
        Path(path).unlink()


def run(command: list[str]) -> None:
    """Run a compiler.

    Raises:
        RuntimeError: It fails; the message ends with its output.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")

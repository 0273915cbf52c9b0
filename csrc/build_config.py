"""The one list of native sources and flags, read by setup.py and by the build on first use.

No -march=native: a wheel must run on every x86-64 machine, so kernels choose their instruction set
at run time. No -ffast-math: NaN and rounding are part of what an operator promises.
"""

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

# LibTorch's stable ABI as of 2.10, Python's as of 3.10.
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DPy_LIMITED_API=0x030A0000"]
CXX_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-fvisibility=hidden", *DEFINES]
LINK_FLAGS = ["-fopenmp"]

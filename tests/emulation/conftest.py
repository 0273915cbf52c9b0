"""Compiles CUDA kernels with g++ behind a C interface."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FLAGS = ["-std=c++20", "-O1", "-shared", "-fPIC", "-Icsrc"]
if os.environ.get("SAGITTAL_EMULATE_SANITIZED") == "1":  # by `make emulate-asan`
    FLAGS += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compile_emulated(name: str) -> ctypes.CDLL:
    """The library of ``tests/emulation/<name>``, compiled once for each content of its sources."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("needs g++")
    main = HERE / name
    sources = [main, HERE / "cuda_emulator.h", *sorted((ROOT / "csrc").rglob("*.cuh"))]
    text = b"".join(path.read_bytes() for path in sources) + repr((compiler, FLAGS)).encode()
    folder = Path(tempfile.gettempdir()) / f"sagittal-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not built.exists():
        partial = built.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, *FLAGS, str(main), "-o", str(partial)], cwd=ROOT, check=True)
        partial.replace(built)  # at once: another worker may be looking
    loaded = ctypes.CDLL(str(built))
    for function in re.findall(r"\* (emulate_\w+)\(", main.read_text()):
        getattr(loaded, function).restype = ctypes.c_char_p
    return loaded


@pytest.fixture(scope="session")
def emulated():
    return compile_emulated


@pytest.fixture(
    params={"forward": 0, "reverse": 1, "shuffled": 2}.items(), ids=lambda item: item[0]
)
def order(request):
    """The order in which the threads of a block run."""
    return request.param[1]

"""Compile the CUDA sources, launchers included, with g++ to operators on CPU tensors.

``python tests/emulation/emulated_ops.py`` prints the library's path. The launchers are rewritten,
not forked: ``kernel<<<grid, block>>>(arguments)`` becomes a call of the emulator, devices and
streams become the CPU's. ``tests/fuzz/fuzz_ops.py --library`` compares the operators with their
references.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TORCH = Path(torch.__file__).parent
LAUNCH = re.compile(r"([\w:]+(?:<[\w:, ]*>)?)\s*<<<(.*?)>>>\s*\(", re.DOTALL)
REPLACED = {
    "torch::stable::accelerator::DeviceGuard": "emulator::Guard",
    "torch::stable::accelerator::getCurrentStream": "emulator::current_stream",
    "STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m)": "STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m)",
    ".is_cuda()": ".is_cpu()",
}
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def _build_config():
    spec = importlib.util.spec_from_file_location("build_config", ROOT / "csrc/build_config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rewrite(source: str) -> str:
    """The text of a launcher for g++."""
    for cuda, cpu in REPLACED.items():
        source = source.replace(cuda, cpu)
    return LAUNCH.sub(r"emulator::Launch(\2).run(\1, ", source)


def build() -> Path:
    """Compile the operators, once for each content of their sources; the library."""
    config = _build_config()
    flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", *config.CUDA_DEFINES]
    flags += [f"-I{HERE}/stubs", f"-isystem{TORCH}/include", "-include", "cuda_runtime.h"]
    flags += [f"-isystem{sysconfig.get_path('include')}"]
    sanitize = SANITIZE if os.environ.get("SAGITTAL_EMULATE_SANITIZED") == "1" else []
    headers = [p for p in sorted((ROOT / "csrc").rglob("*")) if p.suffix in (".h", ".cuh", ".cu")]
    own = sorted(HERE.glob("*.h")) + sorted(HERE.glob("stubs/*")) + sorted(HERE.glob("op*.cpp"))
    compiler = os.environ.get("CXX", "g++")
    key = repr((compiler, flags, sanitize, torch.__version__, sys.version)).encode()
    text = b"".join(path.read_bytes() for path in [*headers, *own, Path(__file__)]) + key
    folder = Path(tempfile.gettempdir()) / f"sagittal-emulation-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"operators-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if built.exists():
        return built
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for path in headers:
            copy = Path(work) / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(
                rewrite(path.read_text()) if path.suffix != ".cuh" else path.read_text()
            )
        sources = [Path(work) / s for s in config.CUDA_SOURCES if s.endswith(".cu")]

        def compiled(source: Path) -> str:
            out = Path(work) / f"{source.stem}-{source.parent.name}.o"
            command = [compiler, *flags, *sanitize, "-x", "c++", "-c", str(source), "-o", str(out)]
            subprocess.run(command, check=True)
            return str(out)

        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compiled, [*sources, HERE / "operators_emulated.cpp"]))
        partial = Path(work) / "operators.so"
        libraries = [f"-L{TORCH}/lib", "-ltorch", "-ltorch_cpu", "-lc10"]
        command = [compiler, "-shared", *sanitize, *objects, *libraries, "-o", str(partial)]
        subprocess.run(command, check=True)
        shutil.move(partial, built)
    return built


if __name__ == "__main__":
    print(build())

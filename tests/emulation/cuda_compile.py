"""Compile every csrc/**/*.cu with nvcc for each architecture; a register spill is an error."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# The stable ABI of 2.13, the first with the native handle of a stream.
FLAGS = ["-std=c++20", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020d000000000000"]
FUNCTION = re.compile(r"Function properties for (\S+)")
SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def spills(log: str) -> dict[str, int]:
    """Bytes of spill stores and loads for each kernel in the output of ``ptxas -v``."""
    found, name = {}, ""
    for line in log.splitlines():
        if match := FUNCTION.search(line):
            name = match[1]
        elif match := SPILL.search(line):
            found[name] = int(match[1]) + int(match[2])
    return found


def compile_source(source: Path, architecture: str) -> dict[str, int]:
    """Compile ``source``; the spills of its kernels.

    Raises:
        RuntimeError: nvcc fails, reports no kernel, or a kernel spills.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise RuntimeError("nvcc is not on PATH")
    include = Path(torch.__file__).parent / "include"
    with tempfile.TemporaryDirectory() as folder:
        target = ["-I", str(include), f"-arch={architecture}", "-Xptxas", "-v"]
        command = [nvcc, *FLAGS, *target, "-c", str(source), "-o", f"{folder}/out.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"{source} for {architecture}: nvcc fails\n{log}")
    found = spills(log)
    if not found:
        raise RuntimeError(f"{source} for {architecture}: ptxas reports no kernel\n{log}")
    if spilled := {name: count for name, count in found.items() if count}:
        raise RuntimeError(f"{source} for {architecture}: bytes of spills: {spilled}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES)
    sources = sorted((ROOT / "csrc").rglob("*.cu"))
    if not sources:
        raise RuntimeError("no csrc/**/*.cu")
    for source in sources:
        for architecture in parser.parse_args().arch:
            kernels = compile_source(source, architecture)
            name = source.relative_to(ROOT)
            print(f"{name} {architecture}: {len(kernels)} kernels, no spills", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

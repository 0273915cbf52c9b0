"""Compile the CUDA sources with nvcc for each architecture and load the module they make.

A register spill is an error. The module must load beside a torch without CUDA too; the operators
that have no CUDA kernel in it are listed.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("build_config", ROOT / "csrc" / "build_config.py")
build_config = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build_config)

ARCHITECTURES = ("8.0", "9.0", "10.0")
SOURCES = [source for source in build_config.CUDA_SOURCES if source.endswith(".cu")]
TORCH = Path(torch.__file__).parent
ENTRY = re.compile(r"Function properties for (\S+)")
SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
# In a process of its own: what a library registers can't be taken back.
REGISTERED = """
import sys, torch
from sagittal_core import ops
torch.ops.load_library(sys.argv[1])
names = {n[10:] for n in torch._C._dispatch_get_all_op_names() if n.startswith("sagittal::")}
# batchtopk_encode is made of topk_encode's kernel; operators with _ are the CPU module's own.
for name in sorted(n for n in names - {"batchtopk_encode"} if n[0] != "_"):
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"sagittal::{name}", "CUDA"):
        print(name)
"""


class Kernel(NamedTuple):
    """What ptxas says of a kernel."""

    spilled: int
    """Bytes of spill stores and loads."""
    registers: int


def read_log(log: str) -> dict[str, Kernel]:
    """The kernels in the output of ``ptxas -v``."""
    found, name, spilled = {}, "", 0
    for line in log.splitlines():
        if match := ENTRY.search(line):
            name = match[1]
        elif match := SPILL.search(line):
            spilled = int(match[1]) + int(match[2])
        elif match := REGISTERS.search(line):
            found[name] = Kernel(spilled, int(match[1]))
    return found


def compile_source(source: str, architecture: str) -> dict[str, Kernel]:
    """Compile ``source`` and read what ptxas says.

    Raises:
        RuntimeError: nvcc fails, reports no kernel, or a kernel spills.
    """
    nvcc = build_config.nvcc()
    if nvcc is None:
        raise RuntimeError("nvcc is neither in CUDA_HOME nor on PATH")
    with tempfile.TemporaryDirectory() as folder:
        target = [*build_config.code_flags(architecture), "-Xptxas", "-v"]
        command = [nvcc, *build_config.CUDA_FLAGS, f"-I{TORCH}/include", *target]
        command += ["-c", str(ROOT / source), "-o", f"{folder}/out.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"{source} for {architecture}: nvcc fails\n{log}")
    found = read_log(log)
    if not found:
        raise RuntimeError(f"{source} for {architecture}: ptxas reports no kernel\n{log}")
    if spilled := {name: kernel.spilled for name, kernel in found.items() if kernel.spilled}:
        raise RuntimeError(f"{source} for {architecture}: bytes of spills: {spilled}")
    return found


def without_kernel(architectures: str) -> list[str]:
    """Build the module, load it; the operators for which it has no CUDA kernel."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "sagittal_cuda.so"
        build_config.build_cuda(ROOT, library, TORCH, architectures)
        command = [sys.executable, "-c", REGISTERED, str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the module does not load\n{done.stderr}")
    return done.stdout.split()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--source", nargs="+", default=SOURCES)
    parser.add_argument("--verbose", action="store_true", help="one line a kernel")
    given = parser.parse_args()
    for source in given.source:
        for architecture in given.arch:
            kernels = compile_source(source, architecture)
            most = max(kernel.registers for kernel in kernels.values())
            print(
                f"{source} {architecture}: {len(kernels)} kernels, no spills, {most} registers "
                "at most",
                flush=True,
            )
            for name, kernel in sorted(kernels.items()) if given.verbose else ():
                print(f"  {kernel.registers:3} {name}")
    if given.source != SOURCES:
        return 0
    missing = without_kernel(given.arch[0])
    print(f"the module loads; operators without a CUDA kernel: {', '.join(missing) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

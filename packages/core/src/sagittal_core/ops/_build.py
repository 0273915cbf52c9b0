"""Locates the installed kernels and builds those of a checkout."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch

from sagittal_core.ops._library import ABI_VERSION

log = logging.getLogger(__name__)

_MARKER = re.compile(rb"sagittal_kernels_abi=(\d+);")


class Unavailable(Exception):
    """Why one way of getting compiled kernels does not work here."""


def find_installed() -> str:
    """Path of the installed ``sagittal_kernels._C_cpu``.

    Raises:
        Unavailable: It is not installed, or was built for other schemas.
    """
    try:
        spec = importlib.util.find_spec("sagittal_kernels._C_cpu")
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise Unavailable("sagittal_kernels is not installed")
    return _check_abi(Path(spec.origin))


def _check_abi(path: Path) -> str:
    # Read from the file: once it is loaded, its kernels are registered and can't be taken back.
    found = _MARKER.search(path.read_bytes())
    number = found.group(1).decode() if found else "none"
    if number != str(ABI_VERSION):
        raise Unavailable(
            f"{path} has ABI number {number}, sagittal_core expects {ABI_VERSION}; reinstall it"
        )
    return str(path)


@lru_cache(maxsize=1)
def compiler() -> str | None:
    """First line of ``c++ --version``, None if there is no compiler."""
    command = os.environ.get("CXX", "c++").split()
    if shutil.which(command[0]) is None:
        return None
    run = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return run.stdout.splitlines()[0] if run.stdout else None


def _csrc() -> Path:
    for parent in Path(__file__).resolve().parents:
        if (parent / "csrc" / "build_config.py").is_file():
            return parent / "csrc"
    raise Unavailable("no checkout with csrc/ around sagittal_core")


def _build_config(csrc: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "_sagittal_build_config", csrc / "build_config.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_or_build() -> str:
    """Path of a library built from the checkout, cached by its sources, flags and torch version.

    Raises:
        Unavailable: There is no checkout, no compiler, no ninja, or the build failed.
    """
    csrc = _csrc()
    config = _build_config(csrc)
    digest = hashlib.sha256(repr((config.CXX_FLAGS, torch.__version__, compiler())).encode())
    for path in sorted(csrc.rglob("*")):
        if path.suffix in (".cpp", ".h", ".py"):
            digest.update(path.read_bytes())
    folder = _cache_root() / f"sagittal_kernels_{digest.hexdigest()[:16]}"
    library = folder / "sagittal_cpu.so"
    if not library.exists():
        if compiler() is None:
            raise Unavailable("no C++ compiler")
        folder.mkdir(parents=True, exist_ok=True)
        _build_locked(csrc.parent, config, library)
    return _check_abi(library)


def _cache_root() -> Path:
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root:
        return Path(root)
    cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return Path(cache) / "torch_extensions" / f"{python}_sagittal"


def _build_locked(root: Path, config: ModuleType, library: Path) -> None:
    import fcntl

    # The kernel drops this lock when its holder dies, unlike the lock file of cpp_extension.
    with (library.parent / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return
        log.warning("compiling the kernels of %s, once (about a minute)", root / "csrc")
        with tempfile.TemporaryDirectory(dir=library.parent) as work:
            built = _compile(root, config, Path(work))
            built.replace(library)  # atomic: nobody loads half a library


def _compile(root: Path, config: ModuleType, work: Path) -> Path:
    from torch.utils import cpp_extension

    # ninja's console script may stand in a venv that is not activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    try:
        cpp_extension.load(
            name="sagittal_cpu",
            sources=[str(root / source) for source in config.CPU_SOURCES],
            extra_cflags=config.CXX_FLAGS,
            extra_ldflags=config.LINK_FLAGS,
            build_directory=str(work),
            is_python_module=False,
            is_standalone=False,
            verbose=False,
        )
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"the build failed: {str(error)[-2000:]}") from error
    return work / "sagittal_cpu.so"

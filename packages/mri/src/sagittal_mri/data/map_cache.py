"""Coil maps that were estimated once: kept in memory, and between runs in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sagittal_core.errors import DataError

_VERSION = 1  # to be raised when the estimation changes, so that old files are not used


class MapCache:
    """Maps by key, first from memory, then from the folder, else computed and stored.

    A file is written beside its name and renamed, so processes may share a folder, and one that is
    interrupted leaves no partial file. Names are hashes: no path or patient can be read from them.

    Args:
        folder: where ``<hash>.npy`` files go; None keeps maps in memory only.
        in_memory: number of slices whose maps this process keeps. The first ones stay: under a
            shuffled order that saves as much as any other choice, and costs no bookkeeping.
    """

    def __init__(self, folder: Path | None, in_memory: int) -> None:
        self.folder, self.in_memory = folder, in_memory
        self._kept: dict[str, Tensor] = {}

    def get(self, key: str, shape: tuple[int, ...], compute: Callable[[], Tensor]) -> Tensor:
        """The maps of ``key``, ``(C, H, W)`` complex64 of this ``shape``.

        Raises:
            DataError: if the file of this key is damaged.
        """
        if key in self._kept:
            return self._kept[key]
        file = None if self.folder is None else self.folder / f"{key}.npy"
        if file is not None and file.is_file():
            maps = _read(file, shape)
        else:
            maps = compute()
            if file is not None:
                _write(file, maps)
        if len(self._kept) < self.in_memory:
            self._kept[key] = maps
        return maps


def content_key(values: Tensor, *parameters: object) -> str:
    """Name of what is made from these values by these parameters, 32 hexadecimal digits.

    Args:
        values: any complex64 tensor; maps depend on a scan's calibration block alone.
        parameters: plain values that also decide the result.
    """
    parts = repr((_VERSION, tuple(values.shape), parameters)).encode()
    digest = hashlib.blake2b(parts, digest_size=16)
    digest.update(values.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(file: Path, shape: tuple[int, ...]) -> Tensor:
    expected = f"complex64 {shape}"
    try:
        values = np.load(file, allow_pickle=False)
        found = f"{values.dtype} {values.shape}"
    except (OSError, ValueError, EOFError) as error:
        values, found = None, str(error)
    if values is None or values.shape != shape or values.dtype != np.complex64:
        raise DataError(
            file, key="maps", expected=expected, found=found, hint="delete this cache file"
        )
    return torch.from_numpy(values)


def _write(file: Path, maps: Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{os.getpid()}.tmp.{file.name}")
    try:
        np.save(temporary, maps.numpy(), allow_pickle=False)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)

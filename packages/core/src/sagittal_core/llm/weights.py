"""Language models of transformers from files on this machine, and what identifies them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sagittal_core import sample_data
from sagittal_core.errors import DataError

_WEIGHTS = ("*.safetensors", "*.gguf", "config.json", "tokenizer.json", "chat_template*")
_END = 1 << 20  # bytes at either end of a file that identify it, beside its size


def fingerprint(path: Path) -> str:
    """Sixteen digits of names, sizes and both ends of the files that decide what a model says."""
    files = [path] if path.is_file() else sorted(f for p in _WEIGHTS for f in path.glob(p))
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_END))
            opened.seek(max(0, size - _END))
            digest.update(opened.read())
    return digest.hexdigest()[:16]


def find_model(path: str | Path) -> Path:
    """The folder or GGUF file of a path, or of the name of sample data.

    Raises:
        DataError: If there is neither.
    """
    if Path(path).exists():
        return Path(path)
    if str(path) in sample_data.names():
        return sample_data.path(str(path))
    raise DataError(
        path, key="path", expected="a folder, a GGUF file or sample data", found="no such file"
    )


def read_model(
    path: str | Path, sees_images: bool = False, device: str = "cpu", dtype: str = "auto"
) -> tuple[Any, Any]:
    """Load a causal or an image-text model, in evaluation mode, with its tokenizer or processor.

    Args:
        path: As of :func:`find_model`.
        sees_images: Load an image-text model with its processor.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``auto`` (as stored; a GGUF file is dequantised to float32), ``float32``,
            ``bfloat16`` or ``float16``.

    Raises:
        DataError: If there is nothing, or transformers cannot read it.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    path = find_model(path)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    options: dict[str, Any] = {"local_files_only": True}
    folder = path
    if path.is_file():
        folder, options = path.parent, options | {"gguf_file": path.name}
    model_class: Any = transformers.AutoModelForCausalLM
    reader_class: Any = transformers.AutoTokenizer
    if sees_images:
        model_class = transformers.AutoModelForImageTextToText
        reader_class = transformers.AutoProcessor
    try:
        processor = reader_class.from_pretrained(folder, **options)
        if not path.is_file():
            options = options | {"use_safetensors": True}
        model = model_class.from_pretrained(folder, dtype=dtype, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(
            path,
            key="weights",
            expected="a language model that transformers reads from safetensors or GGUF",
            found=str(error).splitlines()[0],
        ) from error
    return model.to(place).eval(), processor

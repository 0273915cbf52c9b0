"""What keeps patients' names out of loggers, reports and result files: paths may hold them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HIDDEN = "(path)"
_CONFIG = ("-c", "--config")
_FILE = re.compile(
    r"[/\\]|\.(h5|hdf5|mrd|nii|nii\.gz|dcm|ima|png|jpe?g|tiff?|csv|parquet|npy|npz|ckpt|safetensors)$",
    re.IGNORECASE,
)


def is_path(text: str) -> bool:
    """Say whether a text is a path: it has a separator or a data file's suffix, or exists here."""
    return bool(_FILE.search(text)) or os.path.lexists(text)


def without_paths(value: Any) -> Any:
    """Return a configuration with ``(path)`` for every text that is a path, keys included."""
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(inner) for inner in value]
    if isinstance(value, Path) or (isinstance(value, str) and is_path(value)):
        return _HIDDEN
    return value


def command_line(program: str, args: Sequence[str]) -> str:
    """Return a command to type again, with ``(path)`` for every path but a config's own.

    A configuration inside the working directory is named, as the figures cannot be made again
    without it; any other path is hidden.

    Args:
        program: Name of the program.
        args: What followed it.
    """
    words, config = [program], False
    for word in args:
        option, given, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if config or (option in _CONFIG and given):
            hidden = Path(value).is_absolute() or ".." in Path(value).parts
        else:
            hidden = is_path(value)
        config = word in _CONFIG
        words.append(
            shlex.quote(option + given + value) if not hidden else option + given + _HIDDEN
        )
    return " ".join(words)


def pseudonym(identifier: str, salt: str | None = None) -> str:
    """Return a name for a patient that cannot be turned back without the salt.

    Args:
        identifier: What names the patient.
        salt: A secret; None: ``$SAGITTAL_SALT``, else one drawn once and kept in the cache folder
            of this machine (so two machines give different pseudonyms unless they share it).

    Returns:
        ``p`` and twelve hexadecimal digits of the keyed BLAKE2b hash.
    """
    key = (salt if salt is not None else _local_salt()).encode()
    digest = hashlib.blake2b(identifier.encode(), digest_size=6, key=hashlib.sha256(key).digest())
    return "p" + digest.hexdigest()


def _local_salt() -> str:
    if given := os.environ.get("SAGITTAL_SALT"):
        return given
    from sagittal_core.sample_data import cache_dir

    file = cache_dir() / "salt"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".salt.{os.getpid()}")
        temporary.write_text(secrets.token_hex(16))
        temporary.chmod(0o600)
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(temporary, file)
        temporary.unlink()
    return file.read_text()

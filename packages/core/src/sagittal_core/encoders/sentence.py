"""Texts as unit vectors, by a small BERT-like encoder on disk: all-MiniLM-L6-v2 and its kin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sagittal_core import sample_data
from sagittal_core.encoders.weights import weights_sha256
from sagittal_core.errors import ConfigError, DataError


class SentenceEncoder:
    """Mean of the token vectors, to unit length, as sentence-transformers computes it.

    Args:
        path: A name of the sample data (``minilm``) or a folder in the format of
            sentence-transformers: config.json, safetensors, tokenizer; optionally
            1_Pooling/config.json and sentence_bert_config.json.
        device: Of the arithmetic.

    Attributes:
        dim: Width of a row.
        identity: Plain values that identify the encoder.

    Raises:
        ConfigError: If transformers is not installed.
        DataError: If the folder is incomplete, or pools in another way than mean or class token.
    """

    def __init__(self, path: str | Path = "minilm", device: str = "cpu") -> None:
        known = str(path) in sample_data.names()
        folder = sample_data.path(str(path)) if known else Path(path)
        if not (folder / "config.json").is_file():
            raise DataError(
                folder,
                key="config.json",
                expected="a sentence encoder's folder, or minilm",
                found="no such file",
            )
        try:
            from safetensors import SafetensorError
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise ConfigError(
                "SentenceEncoder: transformers is not installed; run"
                " `pip install 'sagittal-core[encoders]'`"
            ) from None
        self._pooling = _pooling(folder)
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            network: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(
                folder,
                key="weights, tokenizer",
                expected="what transformers' AutoModel and AutoTokenizer read",
                found=str(error)[:400],
            ) from None
        self._tokenizer, self._network = tokenizer, network.eval().to(device)
        self.device, self.dim = device, int(network.config.hidden_size)
        self._longest = _longest(folder, network.config)
        self.identity = {
            "encoder": str(path) if known else network.config.model_type,
            "weights": weights_sha256(network),
            "pooling": self._pooling,
            "longest": self._longest,
        }

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Encode texts; what exceeds the encoder's longest input is cut off.

        Args:
            texts: n of them.
            batch_size: Texts at a time.

        Returns:
            (n, dim) float32, rows of unit length, in order; equal up to rounding whatever the
            batch.
        """
        rows = np.zeros((len(texts), self.dim), np.float32)
        # Texts of like length together: less padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            given = self._tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=self._longest,
                return_tensors="pt",
            ).to(self.device)
            hidden = self._network(**given).last_hidden_state
            if self._pooling == "class":
                pooled = hidden[:, 0]
            else:
                mask = given["attention_mask"][..., None].to(hidden.dtype)
                pooled = (hidden * mask).sum(1) / mask.sum(1)
            rows[chosen] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return rows


def _pooling(folder: Path) -> str:
    """How token vectors become a row, as the folder says: mean (also if silent) or class."""
    config = _read(folder / "1_Pooling" / "config.json")
    asked = sorted(key for key, value in config.items() if key.startswith("pooling_") and value)
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "class"}
    if not config:
        return "mean"
    if len(asked) != 1 or asked[0] not in names:
        raise DataError(
            folder / "1_Pooling" / "config.json",
            key="pooling_mode",
            expected="mean tokens or class token",
            found=", ".join(asked) or "none",
        )
    return names[asked[0]]


def _longest(folder: Path, config: Any) -> int:
    """Most tokens of a text."""
    stated = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    most = int(getattr(config, "max_position_embeddings", 512))
    return min(int(stated), most) if stated else most


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(file, key="JSON", expected="an object", found=repr(error)) from None
    return found if isinstance(found, dict) else {}

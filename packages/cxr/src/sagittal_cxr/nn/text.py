"""A trainable text encoder around any encoder of transformers on disk."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sagittal_core import sample_data
from sagittal_core.encoders.weights import drawn
from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.nn.trainable import freeze_front, freeze_unused

Pooling = Literal["eos", "cls", "mean"]


class TextEncoder(nn.Module):
    """BERT and its kin with their tokenizer; a text's row is pooled from its tokens' rows.

    Published: Bio_ClinicalBERT, 256 tokens, the row of the last token that is no padding.

    Args:
        path: Folder as ``save_pretrained`` writes it (config.json, weights, tokenizer), or minilm,
            the sample data's all-MiniLM-L6-v2.
        pooling: "eos", the last token that is no padding ([SEP] of BERT); "cls", the first; "mean",
            of all that are no padding.
        max_length: Tokens of a text; what exceeds it is cut off, the last token stays [SEP].
        trained_blocks: Train the last so many blocks and what follows them only; 0: nothing of the
            network; None: everything.
        twin_seed: Draw the weights by this seed instead of loading them.

    Attributes:
        dim: Width D of a row.

    Raises:
        ConfigError: transformers is not installed, or max_length more than the network takes.
        DataError: The folder is incomplete.
    """

    def __init__(
        self,
        path: str = "minilm",
        pooling: Pooling = "eos",
        max_length: int = 256,
        trained_blocks: int | None = None,
        twin_seed: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("eos", "cls", "mean"):
            raise ConfigError(f"text: pooling {pooling!r}; expected eos, cls or mean")
        self.path, self.pooling, self.max_length = path, pooling, max_length
        self.trained_blocks = trained_blocks
        folder = sample_data.path(path) if path in sample_data.names() else Path(path)
        self.tokenizer, self.network = _load(folder, twin_seed)
        self.dim = int(self.network.config.hidden_size)  # type: ignore[union-attr,arg-type]
        longest = getattr(self.network.config, "max_position_embeddings", max_length)
        if not 2 < max_length <= int(longest):
            raise ConfigError(f"text: max_length {max_length}; the network takes {longest} tokens")
        self.network.eval().requires_grad_(True)
        freeze_unused(self.network, self(*self.tokenize(["a"])))
        freeze_front(self.network, trained_blocks, "trained_blocks")
        self.train()

    def train(self, mode: bool = True) -> TextEncoder:
        """Switch dropout; a network that is not trained stays in evaluation mode."""
        super().train(mode)
        if self.trained_blocks == 0:
            self.network.eval()
        return self

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both (B, T) int64, padded on the right to the longest text."""
        if not texts:
            raise ValueError("no texts")
        given = self.tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return given["input_ids"], given["attention_mask"]

    def tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The last hidden state (B, T, D)."""
        out = self.network(input_ids=input_ids, attention_mask=attention_mask)
        hidden: Tensor = out.last_hidden_state
        return hidden

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Rows of texts (B, D) from token ids and mask (B, T)."""
        hidden = self.tokens(input_ids, attention_mask)
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "eos":
            last = attention_mask.sum(1) - 1
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        mask = attention_mask[..., None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)

    def save_architecture(self, folder: Path) -> None:
        """Write config and tokenizer, all that ``TextEncoder(folder, twin_seed=0)`` needs."""
        self.network.config.save_pretrained(folder)  # type: ignore[union-attr,operator]
        self.tokenizer.save_pretrained(folder)


def _load(folder: Path, twin_seed: int | None) -> tuple[Any, nn.Module]:
    """Tokenizer and network, none of whose weights is left to chance without a ``twin_seed``."""
    if not (folder / "config.json").is_file():
        raise DataError(
            folder,
            key="config.json",
            expected="a text encoder's folder, or minilm",
            found="no such file",
        )
    try:
        import transformers
        from safetensors import SafetensorError
    except ImportError:
        raise ConfigError(
            "TextEncoder: transformers is not installed; run"
            " `pip install 'sagittal-core[encoders]'`"
        ) from None
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="right"
        )
        cls: Any = transformers.MODEL_MAPPING[type(config)]
        # A pooler is not used, and released weights often lack it.
        pooler = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
        options: dict[str, Any] = {"add_pooling_layer": False} if pooler else {}
        if twin_seed is not None:
            network: nn.Module = drawn(lambda: cls(config, **options), twin_seed)
            return tokenizer, network
        with _quiet(transformers):
            network, info = cls.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(
            folder,
            key="weights, tokenizer",
            expected="a text encoder that transformers reads",
            found=str(error)[:400],
        ) from None
    if missing := sorted(map(str, info["missing_keys"])):
        raise DataError(
            folder,
            key="weights",
            expected=f"all tensors of {cls.__name__}",
            found=f"{len(missing)} missing: {', '.join(missing[:4])}",
        )
    return tokenizer, network


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its table of tensors: what is missing is checked here, and a pooler may be left."""
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)

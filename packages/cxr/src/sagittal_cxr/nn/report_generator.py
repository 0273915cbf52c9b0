"""Reports from images: patch tokens, projected, are the prefix of a causal language model.

After LLaVA-Rad (Chaves et al., 2024), which CheXficient takes for report generation with its own
image encoder in place of that encoder: an MLP of two layers turns patch tokens into vectors of the
language model's width, and the model goes on from them. Published: all 37 x 37 tokens and a
language model of 7 billion parameters, trained by LoRA.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sagittal_core.errors import ConfigError

IGNORED = -100
"""Label of a position that the loss leaves out."""


def pooled_tokens(tokens: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Mean of patch tokens (B, h * w, D) over a grid of side x side, (B, side * side, D)."""
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    return functional.adaptive_avg_pool2d(maps, (side, side)).flatten(2).transpose(1, 2)


class ReportGenerator(nn.Module):
    """A projector in front of a causal language model.

    Args:
        language: A causal model of transformers.
        image_dim: Width D of an image's tokens.
        trained: "projector" (the language model is frozen), "lora" (low-rank changes of its linear
            layers too) or "full" (everything).
        rank: Of the low-rank changes.

    Raises:
        ConfigError: If ``trained`` is none of these, or peft is not installed where it is needed.
    """

    def __init__(
        self, language: Any, image_dim: int, trained: str = "projector", rank: int = 8
    ) -> None:
        super().__init__()
        if trained not in ("projector", "lora", "full"):
            raise ConfigError(f"report generator: trained {trained!r}; projector, lora or full")
        words = language.get_input_embeddings().weight
        width = words.shape[1]
        # Prefix vectors begin with the size of the vectors of words, which the model is used to.
        last = nn.LayerNorm(width)
        nn.init.constant_(last.weight, float(words.detach().float().pow(2).mean().sqrt()))
        self.projector = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, width),
            nn.GELU(),
            nn.Linear(width, width),
            last,
        )
        language.requires_grad_(trained == "full")
        self.language: Any = _with_lora(language, rank) if trained == "lora" else language

    def loss(self, tokens: Tensor, prompt: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the report's tokens, each after those before it (teacher forcing).

        Args:
            tokens: (B, P, D) tokens of the images.
            prompt: (Q,) ids between image and report; Q may be 0.
            labels: (B, T) ids of the reports with their end, padded on the right with -100.
        """
        there = labels != IGNORED
        begun = self._begun(tokens, prompt)
        written = self._words(torch.where(there, labels, 0))
        # Padding stands last, where a causal model's other positions do not see it.
        out = self.language(
            inputs_embeds=torch.cat([begun, written.to(begun.dtype)], 1),
            use_cache=False,
            logits_to_keep=labels.shape[1] + 1,
        )
        logits = out.logits[:, :-1].float()
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED
        )

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, prompt: Tensor, longest: int, ends: Sequence[int]
    ) -> list[list[int]]:
        """Write reports greedily.

        Args:
            tokens: (B, P, D) tokens of the images.
            prompt: (Q,) ids between image and report.
            longest: Tokens at most.
            ends: Ids that end a report.

        Returns:
            B lists of ids without the end; one that is ``longest`` long may have been cut off.
        """
        from transformers import GenerationConfig

        begun = self._begun(tokens, prompt)
        settings = GenerationConfig(
            max_new_tokens=longest,
            do_sample=False,
            eos_token_id=list(ends),
            pad_token_id=ends[0],
        )
        ones = torch.ones(begun.shape[:2], dtype=torch.long, device=begun.device)
        rows = self.language.generate(
            inputs_embeds=begun, attention_mask=ones, generation_config=settings
        ).tolist()
        cut = [next((i for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
        return [row[:end] for row, end in zip(rows, cut, strict=True)]

    def _begun(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        """What stands before the report: (B, P + Q, width)."""
        projected: Tensor = self.projector(tokens.float())
        asked = self._words(prompt).expand(len(tokens), -1, -1)
        return torch.cat([projected.to(asked.dtype), asked], 1)

    def _words(self, ids: Tensor) -> Tensor:
        vectors: Tensor = self.language.get_input_embeddings()(ids)
        return vectors


def _with_lora(language: Any, rank: int) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ConfigError(
            "report generator: peft is not installed; run `pip install 'sagittal-cxr[lora]'`"
        ) from None
    settings = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(language, settings)

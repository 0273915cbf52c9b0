"""A causal language model that answers a question about a patient with one token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm.weights import find_model, fingerprint, read_model


@dataclass
class LoRASettings:
    """Low-rank adapters (Hu et al., arXiv 2106.09685), the defaults those of AdaCVD's code.

    Attributes:
        rank: r.
        alpha: Scale; an adapter adds alpha / r times its product.
        dropout: Before the first factor.
        targets: Names of the linear layers that get one.
    """

    rank: int = 16
    alpha: int = 64
    dropout: float = 0.01
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")


class Answers(NamedTuple):
    """What the model thinks of N prompts.

    Attributes:
        logprobs: (N, 2) float32 natural log-probabilities of the answers No and Yes among all
            tokens of the vocabulary.
    """

    logprobs: Tensor

    @property
    def risk(self) -> Tensor:
        """(N,) probability of Yes among the two answers."""
        return self.logprobs.softmax(-1)[:, 1]

    @property
    def mass(self) -> Tensor:
        """(N,) probability that the answer is one of the two at all."""
        return self.logprobs.exp().sum(-1)


class AnswerModel(nn.Module):
    """Reads the probabilities of two one-token answers after a prompt.

    The token of an answer is that which the tokenizer makes of it *in context*: "Yes" after a line
    break need not be the token of " Yes" or of "Yes" alone. Prompts are plain text, not a
    conversation, as in AdaCVD's code.

    Args:
        weights: Folder of safetensors with config and tokenizer, a GGUF file, or the name of sample
            data (``smollm2``).
        answers: The negative and the positive answer.
        lora: Adapters to train; None: the model is used as it is.
        dtype: ``auto`` (as stored), ``float32`` or ``bfloat16``; adapters have the same.
        longest: Tokens of a prompt; None: as many as the model takes.

    Attributes:
        identity: Plain values that identify the model without its adapters.

    Raises:
        ConfigError: If a target of the adapters is not in the model, or peft is not installed.
        DataError: If the weights cannot be read.
    """

    def __init__(
        self,
        weights: str = "smollm2",
        answers: tuple[str, str] = ("No", "Yes"),
        lora: LoRASettings | None = None,
        dtype: str = "auto",
        longest: int | None = None,
    ) -> None:
        super().__init__()
        if dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"dtype {dtype!r}: expected auto, float32 or bfloat16")
        path = find_model(weights)
        network, self.tokenizer = read_model(path, dtype=dtype)
        self.identity: dict[str, Any] = {
            "model": path.stem if path.is_file() else path.resolve().name,
            "weights": fingerprint(path),
            "dtype": dtype,
        }
        context = int(getattr(network.config, "max_position_embeddings", None) or 2**31)
        self.longest = min(context, longest or context)
        self.answers = (answers[0], answers[1])
        self.network: Any = network.requires_grad_(False)
        if lora is not None:
            # Trained like any network: the weights come in evaluation mode, without dropout.
            self.network = _with_adapters(network, lora).train()

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and values of what is trained."""
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)

    def encode(self, prompt: str) -> tuple[list[int], tuple[int, int]]:
        """Tokens of the context and the tokens of both answers, as the tokenizer sees them joined.

        Prompt and answer are tokenised together, for the end of a prompt alone may be cut in
        another way: many tokenizers make two line breaks one token at the end of a text, and two
        before a word.

        Raises:
            ConfigError: If the answers do not differ in exactly one token, the last.
        """
        negative, positive = (self._tokens(prompt + answer) for answer in self.answers)
        if negative[:-1] != positive[:-1] or negative[-1] == positive[-1]:
            raise ConfigError(
                f"the answers {self.answers} must be one token each, two different ones; after a"
                f" prompt that ends with {prompt[-20:]!r} they are {negative[-4:]} and"
                f" {positive[-4:]}"
            )
        return negative[:-1], (negative[-1], positive[-1])

    def forward(self, prompts: Sequence[str]) -> Answers:
        """Log-probabilities of the answers after each of N prompts.

        Raises:
            ConfigError: As :meth:`encode`.
            DataError: If a prompt is longer than the model takes; nothing is cut off silently.
        """
        rows, tokens = zip(*(self.encode(prompt) for prompt in prompts), strict=True)
        longest = max(len(row) for row in rows)
        if longest > self.longest:
            raise DataError(
                self.identity["model"],
                key="prompt",
                expected=f"up to {self.longest} tokens",
                found=f"{longest} tokens",
            )
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):  # on the right: the answer follows the last column
            ids[number, longest - len(row) :] = torch.tensor(row)
            mask[number, longest - len(row) :] = 1
        device = next(self.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        logits = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
        ).logits[:, -1]
        chosen = torch.tensor(tokens, device=device)
        return Answers(logits.float().log_softmax(-1).gather(1, chosen))

    def loss(self, answers: Answers, labels: Tensor) -> Tensor:
        """Cross-entropy of the one answer token over the whole vocabulary, mean over N.

        Args:
            answers: Of :meth:`forward`.
            labels: (N,) 0 or 1.
        """
        return -answers.logprobs.gather(1, labels.long()[:, None]).mean()

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found


def _with_adapters(network: Any, lora: LoRASettings) -> Any:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ConfigError("lora: peft is not installed; run `pip install peft`") from None
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    try:
        return inject_adapter_in_model(config, network)
    except ValueError as error:
        raise ConfigError(f"lora: {str(error)[:300]}") from None

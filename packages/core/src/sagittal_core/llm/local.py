"""Language models of transformers, from files on this machine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm.base import ChoiceScores, LanguageModel
from sagittal_core.llm.reply import Message, Reply, Request, judged
from sagittal_core.llm.weights import find_model, fingerprint, read_model
from sagittal_core.seeds import counter_seed


class LocalModel(LanguageModel):
    """A causal or an image-text model with a chat template, loaded when it is first asked.

    Args:
        path: Folder of safetensors with config and tokenizer, a GGUF file, or the name of sample
            data (``smollm2``).
        sees_images: Load it as an image-text model with its processor.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        options_per_pass: Options of :meth:`choose`, or conversations of :meth:`choose_many`, that
            share one forward pass.

    Raises:
        DataError: If there is no such file or sample data.
        ConfigError: If the dtype is none of these.
    """

    def __init__(
        self,
        path: str | Path,
        sees_images: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        options_per_pass: int = 8,
    ) -> None:
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ConfigError(f"llm: dtype must be auto, float32, bfloat16 or float16, not {dtype}")
        if options_per_pass < 1:
            raise ConfigError("llm: options_per_pass must be at least 1")
        self.path = find_model(path)
        self.name = self.path.stem if self.path.is_file() else self.path.resolve().name
        self.sees_images, self.device, self.dtype = sees_images, device, dtype
        self.options_per_pass = options_per_pass
        self.identity = f"{fingerprint(self.path)}-{dtype}-{sees_images}"
        self._loaded: tuple[Any, Any] | None = None

    def complete(self, request: Request) -> Reply:
        """Answer one request, greedily at temperature 0, else by its seed and sample."""
        import torch
        from transformers import GenerationConfig

        model, processor = self._load()
        inputs = self._inputs(request.messages)
        length = inputs["input_ids"].shape[1]
        if length + request.max_tokens > self._context():
            return Reply(
                "transport", "", self.name, length, detail="the prompt exceeds the model's context"
            )
        ends = _end_tokens(model, processor)
        sampling: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            sampling = {"do_sample": True, "temperature": request.temperature, "top_k": 0}
        settings = GenerationConfig(
            max_new_tokens=request.max_tokens,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **sampling,
        )
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(counter_seed(request.seed, request.sample))
            out = model.generate(**inputs, generation_config=settings)[0, length:].tolist()
        ended = bool(out) and out[-1] in ends
        text = _tokenizer(processor).decode(out, skip_special_tokens=True).strip()
        counts = (length, len(out))
        if not ended:
            return Reply("truncated", text, self.name, *counts, detail="hit max_tokens")
        return judged(Reply("ok", text, self.name, *counts))

    def choose(self, messages: Sequence[Message], options: Sequence[str]) -> ChoiceScores:
        """Log-probability of each option as the assistant's answer, without its end of turn.

        The option's tokens are its own: it is tokenised apart from the prompt, so that all options
        follow the same tokens.

        Raises:
            DataError: If an option is empty, or the longest exceeds the model's context.
        """
        import torch

        model, processor = self._load()
        inputs = self._inputs(messages)
        prompt = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        tokens = [
            _tokenizer(processor)(option, add_special_tokens=False)["input_ids"]
            for option in options
        ]
        longest = max((len(t) for t in tokens), default=0)
        if not all(tokens) or prompt.shape[1] + longest > self._context():
            raise DataError(
                self.name,
                key="options",
                expected=f"text of at least one token, up to {self._context()} with the prompt",
                found=f"{prompt.shape[1]} and {sorted(len(t) for t in tokens)} tokens",
            )
        scores: list[float] = []
        for start in range(0, len(tokens), self.options_per_pass):
            part = tokens[start : start + self.options_per_pass]
            with torch.inference_mode():
                scores += _logprobs(model, prompt, part, inputs)
        return ChoiceScores(np.array(scores), np.array([len(t) for t in tokens], dtype=np.int64))

    def choose_many(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[str]
    ) -> list[ChoiceScores]:
        """Log-probability of each option after each conversation, in order.

        Where every option is a single token, conversations of like length share a forward pass, and
        one pass scores all options; otherwise each conversation has its own.

        Raises:
            DataError: As :meth:`choose`.
        """
        model, processor = self._load()
        tokens = [
            _tokenizer(processor)(option, add_special_tokens=False)["input_ids"]
            for option in options
        ]
        if self.sees_images or any(len(option) != 1 for option in tokens):
            return super().choose_many(conversations, options)
        prompts = [self._inputs(messages)["input_ids"][0].tolist() for messages in conversations]
        longest = max((len(prompt) for prompt in prompts), default=0)
        if longest + 1 > self._context():
            raise DataError(
                self.name,
                key="conversations",
                expected=f"prompts of up to {self._context() - 1} tokens",
                found=f"{longest} tokens",
            )
        chosen = [option[0] for option in tokens]
        ones = np.ones(len(chosen), dtype=np.int64)
        scores: list[ChoiceScores | None] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), self.options_per_pass):
            part = order[start : start + self.options_per_pass]
            rows = _next_token_logprobs(model, [prompts[i] for i in part], chosen)
            for number, row in zip(part, rows, strict=True):
                scores[number] = ChoiceScores(row, ones.copy())
        return [score for score in scores if score is not None]

    def one_token(self, options: Sequence[str]) -> list[str]:
        """Those options that are a single token, in order, one of each token.

        Their probabilities after one prompt belong to different answers, so they may be summed.
        """
        _, processor = self._load()
        found: dict[int, str] = {}
        for option in options:
            tokens = _tokenizer(processor)(option, add_special_tokens=False)["input_ids"]
            if len(tokens) == 1:
                found.setdefault(tokens[0], option)
        return list(found.values())

    def _inputs(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The conversation as the model's chat template puts it, one row."""
        model, processor = self._load()
        if not self.sees_images and any(message.images for message in messages):
            raise ConfigError(f"llm: {self.name} was loaded without images (sees_images)")
        turns = [self._turn(message) for message in messages]
        encoded = processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return {key: value.to(model.device) for key, value in encoded.items()}

    def _turn(self, message: Message) -> dict[str, Any]:
        if not self.sees_images:
            return {"role": message.role, "content": message.text}
        from PIL import Image

        pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in message.images]
        parts: list[dict[str, Any]] = [{"type": "image", "image": p} for p in pictures]
        return {"role": message.role, "content": [*parts, {"type": "text", "text": message.text}]}

    def _context(self) -> int:
        model, _ = self._load()
        config = model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2**31)

    def _load(self) -> tuple[Any, Any]:
        """Model and tokenizer, or processor; once."""
        if self._loaded is None:
            loaded = read_model(self.path, self.sees_images, self.device, self.dtype)
            if not getattr(loaded[1], "chat_template", None):
                raise DataError(
                    self.path,
                    key="chat_template",
                    expected="a model tuned for conversation",
                    found="none",
                )
            self._loaded = loaded
        return self._loaded


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def _end_tokens(model: Any, processor: Any) -> list[int]:
    """What ends an answer: chat models often have another token for it than for a document."""
    found = model.generation_config.eos_token_id
    ends = list(found) if isinstance(found, (list, tuple)) else [found]
    ends.append(_tokenizer(processor).eos_token_id)
    return sorted({int(token) for token in ends if token is not None})


def _logprobs(
    model: Any, prompt: Any, options: list[list[int]], others: dict[str, Any]
) -> list[float]:
    """Summed log-probability of each option after the prompt (1, T), in one forward pass."""
    import torch

    longest = max(len(option) for option in options)
    padded = torch.zeros(len(options), longest, dtype=torch.long, device=prompt.device)
    there = torch.zeros_like(padded)
    for row, option in enumerate(options):
        padded[row, : len(option)] = torch.tensor(option)
        there[row, : len(option)] = 1
    ids = torch.cat([prompt.expand(len(options), -1), padded], 1)
    mask = torch.cat([torch.ones_like(ids[:, : prompt.shape[1]]), there], 1)
    repeated = {
        key: value.repeat_interleave(len(options), 0) if value.dim() else value
        for key, value in others.items()
    }
    # The last longest + 1 positions: that before an option predicts its first token.
    logits = model(
        input_ids=ids, attention_mask=mask, logits_to_keep=longest + 1, **repeated
    ).logits[:, -(longest + 1) : -1]
    picked = logits.float().log_softmax(-1).gather(2, padded[..., None])[..., 0]
    summed: list[float] = (picked * there).double().sum(1).tolist()
    return summed


def _next_token_logprobs(model: Any, prompts: list[list[int]], chosen: list[int]) -> Any:
    """(prompts, chosen) float64 log-probabilities of the token after each prompt."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=model.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left: the last token stands in the last
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1
        ).logits[:, -1]
        return logits.float().log_softmax(-1)[:, chosen].double().cpu().numpy()

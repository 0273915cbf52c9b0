"""A training loop for small heads that goes on after a kill and draws nothing but from its seed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.seeds import counter_seed
from sagittal_cxr.progress import track


@dataclass(frozen=True)
class Plan:
    """How a head is trained: AdamW, a short linear warm-up, then a cosine to zero.

    Attributes:
        epochs: Passes over the rows.
        batch: Rows a step.
        weight_decay: Of matrices; vectors have none.
        warmup: Share of the steps.
        clip: Largest norm of the gradient.
        save_seconds: Work between two checkpoints, which a kill may lose.
    """

    epochs: int = 30
    batch: int = 8
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip: float = 1.0
    save_seconds: float = 20.0

    def __post_init__(self) -> None:
        """Refuse a plan without a step."""
        if self.epochs < 1 or self.batch < 1:
            raise ConfigError("training: epochs and batch must be 1 or more")

    def steps(self, rows: int) -> int:
        """Steps of the whole training."""
        return self.epochs * math.ceil(rows / self.batch)

    def chosen(self, rows: int, step: int, seed: int) -> NDArray[np.int64]:
        """Rows of a step: each epoch is a permutation drawn from seed and epoch."""
        epoch, part = divmod(step, math.ceil(rows / self.batch))
        rng = np.random.default_rng(counter_seed(seed, epoch, "training order"))
        return rng.permutation(rows)[part * self.batch : (part + 1) * self.batch]

    def factor(self, step: int, steps: int) -> float:
        """Of the learning rate."""
        rise = max(1, round(self.warmup * steps))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def digest(values: Mapping[str, Any]) -> str:
    """Ten digits of plain values that decide a result, for the names of files."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def fit(
    module: nn.Module,
    loss: Callable[[NDArray[np.int64]], Tensor],
    rates: Mapping[str, float],
    *,
    rows: int,
    plan: Plan,
    checkpoint: Path,
    seed: int,
    title: str = "training",
) -> list[float]:
    """Train what asks for gradients; the same call again goes on from the checkpoint.

    Args:
        module: Its modes (training, evaluation) are the caller's business.
        loss: Of the rows of a step.
        rates: Learning rate by the beginning of parameters' names; the longest that fits counts.
        rows: Number of them.
        plan: How.
        checkpoint: Written now and then, and at the end; one of other settings must have
            another name.
        seed: Of the order.
        title: Of the progress bar.

    Returns:
        Loss of each step.

    Raises:
        ConfigError: If nothing asks for gradients, or a parameter has no rate.
        DataError: If the loss is not finite, or the checkpoint is damaged.
    """
    optimiser = torch.optim.AdamW(_groups(module, rates, plan))
    steps, losses = plan.steps(rows), _resumed(module, optimiser, checkpoint)
    saved = time.monotonic()
    for step in track(range(len(losses), steps), title):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * plan.factor(step, steps)
        value = loss(plan.chosen(rows, step, seed))
        if not bool(torch.isfinite(value)):
            raise DataError(
                "training", key="loss", expected="a finite number", found=f"{value} at step {step}"
            )
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for g in optimiser.param_groups for p in g["params"]], plan.clip
        )
        optimiser.step()
        losses.append(float(value.detach()))
        if step + 1 == steps or time.monotonic() - saved >= plan.save_seconds:
            _save(module, optimiser, losses, checkpoint)
            saved = time.monotonic()
    return losses


def _groups(module: nn.Module, rates: Mapping[str, float], plan: Plan) -> list[dict[str, Any]]:
    """Parameters that are trained, by rate and by whether they decay."""
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        fitting = [prefix for prefix in rates if name.startswith(prefix)]
        if not fitting:
            raise ConfigError(f"training: no learning rate for {name}")
        key = (rates[max(fitting, key=len)], parameter.dim() > 1)
        found.setdefault(key, []).append(parameter)
    if not found:
        raise ConfigError("training: nothing to train")
    return [
        {"params": p, "peak": rate, "lr": rate, "weight_decay": plan.weight_decay * decays}
        for (rate, decays), p in sorted(found.items(), key=lambda item: item[0])
    ]


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, and all buffers."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: t for name, t in module.state_dict().items() if name not in frozen}


def _save(
    module: nn.Module, optimiser: torch.optim.Optimizer, losses: list[float], file: Path
) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    state = {"module": trained_state(module), "optimiser": optimiser.state_dict(), "losses": losses}
    torch.save(state, temporary)
    temporary.replace(file)


def _resumed(module: nn.Module, optimiser: torch.optim.Optimizer, file: Path) -> list[float]:
    """Load the checkpoint, if there is one; losses of the steps that it holds."""
    if not file.is_file():
        return []
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        wrong = module.load_state_dict(state["module"], strict=False)
        optimiser.load_state_dict(state["optimiser"])
    except Exception as error:
        raise DataError(
            file,
            key="checkpoint",
            expected="what an earlier call wrote",
            found=repr(error)[:300],
            hint="remove the file to train again",
        ) from None
    lost = set(wrong.missing_keys) & set(trained_state(module))
    if lost or wrong.unexpected_keys:
        raise DataError(
            file,
            key="checkpoint",
            expected="the parameters that are trained",
            found=f"{len(lost)} missing, {len(wrong.unexpected_keys)} unknown",
            hint="remove the file to train again",
        )
    return list(state["losses"])

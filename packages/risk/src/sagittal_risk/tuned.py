"""A finished ``sagittal-risk fit`` as a judge of prompts: what it was told, what identifies it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from sagittal_core.errors import ConfigError, DataError
from sagittal_core.llm.weights import find_model, fingerprint
from sagittal_core.run_folder import RunFolder
from sagittal_core.runs import find_run
from sagittal_risk.adacvd import load_adacvd
from sagittal_risk.nn.answer_model import AnswerModel, LoRASettings
from sagittal_risk.prompts import QUESTION
from sagittal_risk.records.description import Group
from sagittal_risk.records.groups import groups_of
from sagittal_risk.records.told import Telling


class TunedModel:
    """A language model with the adapters of a run; its weights are read when they are needed.

    Args:
        path: Run folder, or its prefix.
        bfloat16: Compute in bfloat16 where autocast does: about half the time on CPUs that have
            it, and other numbers.
        device: auto, cpu, cuda, ...

    Attributes:
        name: ``model:`` and the run's name.
        outcome: Column of the outcome that the run was tuned on.
        years: The horizon, if the question states exactly one number of years.
        groups: Features as the run was told them.
        question: What was asked.
        text_column: Column of free text; None: none.
        narrated: Share of the features that the run was told in sentences.
        identity: Sixteen digits of all that decides an answer but the prompt.

    Raises:
        ConfigError: There is no such run, several, or it is not finished.
        DataError: The run trained something else, or its files are damaged or gone.
    """

    def __init__(self, path: Path, bfloat16: bool = False, device: str = "auto") -> None:
        self._run = find_run(path)
        self._config = self._run / "config.yaml"
        if RunFolder(self._run).status() == "unfinished":
            raise ConfigError(f"{self._run} is not finished: run its `fit` command again")
        config = yaml.safe_load(self._config.read_text(encoding="utf-8"))
        data = self._section(config, "data")
        if "groups" not in data:
            raise self._other("data.init_args.groups", "none")
        self.name = f"model:{config.get('run_name') or self._run.name}"
        self.outcome = str(data.get("outcome", ""))
        self.groups: list[Group] = groups_of(data["groups"], str(self._config))
        self.question = str(data.get("question") or QUESTION)
        self.text_column: str | None = data.get("text_column")
        self.narrated = float(data.get("narrated") or 0)
        self.years = years_of(self.question)
        self.bfloat16 = bfloat16
        self._device = device
        self.identity = self._identity(self._section(config, "model"))

    def telling(self, groups: Sequence[Group] | None = None) -> Telling:
        """How a table is told: as the run was, or by other groups of the same features."""
        if groups is None:
            return Telling(self.groups, self.question, self.text_column)
        there = {f.name for group in groups for f in group.features}
        mine = [f.name for group in self.groups for f in group.features]
        gone = tuple(name for name in mine if name not in there)
        return Telling(groups, self.question, self.text_column, gone)

    def key(self, prompt: str) -> str:
        """Hash of all that decides the answer."""
        return hashlib.sha256(json.dumps([self.identity, prompt]).encode()).hexdigest()

    @cached_property
    def network(self) -> AnswerModel:
        """The model, on its device."""
        device = self._device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return load_adacvd(self._run).network.to(device).eval()

    def tokens(self, prompt: str) -> int:
        """Length of a prompt."""
        return len(self.network.encode(prompt)[0])

    def answer(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(N, 2) natural log-probabilities of the negative and the positive answer.

        Raises:
            DataError: The model gives no probabilities (its weights hold NaN or infinity).
        """
        kind = next(self.network.parameters()).device.type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self.bfloat16):
            found = self.network(prompts).logprobs.float().cpu()
        if not bool(found.isfinite().all()):
            raise DataError(
                self._config, key="model", expected="finite probabilities", found="NaN or infinity"
            )
        return found.numpy()

    def _identity(self, model: dict[str, Any]) -> str:
        digest = hashlib.sha256()
        weights = find_model(str(model.get("weights", "smollm2")))
        settings = {
            "weights": fingerprint(weights),
            "dtype": model.get("dtype", "auto"),
            "lora": model.get("lora") or asdict(LoRASettings()),
            "answers": model.get("answers"),
            "bfloat16": self.bfloat16,
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
        checkpoint = self._run / "checkpoints" / "last.ckpt"
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        except (OSError, RuntimeError, KeyError, EOFError, UnpicklingError) as error:
            raise DataError(
                checkpoint, key="state_dict", expected="adapters", found=str(error)[:200]
            ) from None
        for name in sorted(state):
            value = state[name].contiguous().reshape(-1)
            digest.update(f"{name} {value.dtype} {tuple(state[name].shape)} ".encode())
            digest.update(value.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _section(self, config: Any, name: str) -> dict[str, Any]:
        section = config.get(name) if isinstance(config, dict) else None
        found = section.get("init_args") if isinstance(section, dict) else None
        if not isinstance(found, dict):
            raise self._other(name, "none" if section is None else type(section).__name__)
        return found

    def _other(self, key: str, found: str) -> DataError:
        return DataError(self._config, key=key, expected="a fit of AdaCVD", found=found)


def years_of(question: str) -> int | None:
    """The horizon that a question states, None where it states none or several."""
    found = set(re.findall(r"\b(\d+)[ -]years?\b", question))
    return int(found.pop()) if len(found) == 1 else None

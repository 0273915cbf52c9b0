"""A tuned language model beside the equations on the page for one patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from sagittal_core.errors import ConfigError
from sagittal_risk.fields import FIELDS, names_of
from sagittal_risk.model_scores import Asked
from sagittal_risk.page import title
from sagittal_risk.patients import Patients
from sagittal_risk.prompts import LOW_MASS
from sagittal_risk.records.description import Feature, Group
from sagittal_risk.records.groups import read_groups
from sagittal_risk.tuned import TunedModel


class FormModel:
    """Asks the model about the patient of a form.

    Args:
        tuned: The model.
        groups: Features whose columns are the form's fields; None: as the run was told.

    Raises:
        ConfigError: A column is no field of the form, or is told in another unit or coding.
    """

    def __init__(self, tuned: TunedModel, groups: Sequence[Group] | None = None) -> None:
        self.tuned, self.telling = tuned, tuned.telling(groups)
        strange = [f.column for f in self.telling.features if f.column not in FIELDS]
        if strange:
            raise ConfigError(
                f"page: the form has no {', '.join(strange)}; --groups FILE.yaml tells its fields,"
                f" {', '.join(FIELDS)}"
            )
        for feature in self.telling.features:
            _expect_form(feature)
        self._one = Lock()

    def ask(self, patient: Patients) -> dict[str, Any]:
        """The row of one patient.

        Args:
            patient: One, with the form's fields.

        Returns:
            equation, outcome, years (None: not stated), risk (None: there is none), notes, and
            ``sound``: whether the notes say nothing against the risk.
        """
        record = {name: float(column[0]) for name, column in patient.columns.items()}
        told = self.telling.tell(record)
        features = {feature.column for feature in self.telling.features}
        wrong = [name for name in names_of(int(patient.implausible[0])) if name in features]
        parts = [f"not told: {', '.join(told.missing)}" if told.missing else ""]
        risk, sound = None, False
        if wrong:
            parts.append(f"no patient has this: {', '.join(title(n) for n in wrong)}; unit?")
        elif told.untold:
            parts.append(f"cannot be told: {', '.join(told.untold)}")
        elif told.prompt is None:
            parts = ["nothing is known"]
        else:
            with self._one:
                logprobs = self._answer(told.prompt)
            if logprobs is None:
                parts.append("the prompt is longer than the model takes")
            else:
                found = Asked(logprobs, np.zeros(1, bool), 1)
                risk, mass = float(found.risk[0]), float(found.mass[0])
                sound = mass >= LOW_MASS
                below = "" if sound else f", below {LOW_MASS:g}: hardly an answer"
                parts.append(f"answer mass {mass:.2g}{below}")
        return {
            "equation": self.tuned.name,
            "outcome": self.tuned.outcome,
            "years": self.tuned.years,
            "risk": None if risk is None or math.isnan(risk) else risk,
            "notes": "; ".join(part for part in parts if part),
            "sound": sound,
        }

    def _answer(self, prompt: str) -> np.ndarray | None:
        """(1, 2) log-probabilities, None if the prompt is too long."""
        if self.tuned.tokens(prompt) > self.tuned.network.longest:
            return None
        return self.tuned.answer([prompt]).astype(float)


def form_model(path: Path, groups: Path | None = None) -> FormModel:
    """The model of a run, loaded.

    Raises:
        ConfigError: See :class:`FormModel` and :class:`~sagittal_risk.tuned.TunedModel`.
        DataError: The run is damaged.
    """
    given = None if groups is None else read_groups(groups)
    found = FormModel(TunedModel(path), given)
    _ = found.tuned.network
    return found


def _expect_form(feature: Feature) -> None:
    """The form gives numbers in a field's own unit, and codes from 0."""
    field = FIELDS[feature.column]
    if feature.unit in field.units:
        raise ConfigError(
            f"page: the form gives {feature.column} in {field.unit}, the groups tell it in"
            f" {feature.unit}"
        )
    codes = {str(number): name for name, number in field.codes.items()}
    codes = {"0": "no", "1": "yes"} if field.flag else codes
    told = {"0", "1"} if feature.yes_no else set(feature.values or ())
    if codes and not set(codes) <= told:
        said = ", ".join(f"{code} ({name})" for code, name in codes.items())
        raise ConfigError(
            f"page: the form gives {feature.column} as {said}; its feature has text for"
            f" {', '.join(sorted(told)) or 'none'}"
        )

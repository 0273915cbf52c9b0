"""What a language model is asked about a patient, as AdaCVD's released code does."""

from __future__ import annotations

import json
import re

QUESTION = (
    "Will this patient have a major adverse cardiovascular event in the next 10 years?"
    " Reply with Yes or No."
)
# No number as an example: small models give that one back for everybody.
VERBALISED = (
    "What is this patient's estimated 10-year risk of cardiovascular disease? Reply solely with a"
    ' JSON object {"risk_percent": NUMBER}, where NUMBER lies between 0 and 100, in percent.'
)
SUMMARISE = (
    "Write a brief summary of this patient for a physician, as running text. State every value that"
    " is given and nothing else: no risk estimate, no judgement, no advice."
)
LOW_MASS = 0.1  # below it the renormalised risk rests on tokens the model would hardly say
_JSON = re.compile(r"\{[^{}]*\}")


def prompt(description: str, question: str = QUESTION) -> str:
    """The text before the answer.

    Args:
        description: Of the patient: listed features, running text, or both.
        question: What is asked.
    """
    return f"Patient description:\n\n{description}\n\n{question}\n\n"


def read_percent(text: str) -> float:
    """Read the answer to :data:`VERBALISED` as a probability.

    The unit is part of the key, so that "1" is one per cent and "0.5" half of one: AdaCVD's code
    takes what is below 1 as a probability and the rest as per cent, which reads 1 as 0.01 and 0.5
    as 0.5.

    Args:
        text: Of the answer; words around the object are ignored.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If there is no such object, or the number is not between 0 and 100.
    """
    for match in _JSON.finditer(text):
        try:
            value = json.loads(match.group())["risk_percent"]
        except (ValueError, KeyError):
            continue
        if isinstance(value, str):
            value = value.strip().removesuffix("%").strip()
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError("risk_percent is no number")
        percent = float(value)
        if not 0 <= percent <= 100:
            raise ValueError(f"a risk of {percent} % is none")
        return percent / 100
    raise ValueError("no JSON object with risk_percent")

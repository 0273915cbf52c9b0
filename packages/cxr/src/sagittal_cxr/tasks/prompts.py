"""Pairs of texts that ask for a finding: what is said if it is there, and if it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sagittal_core.errors import ConfigError


@dataclass(frozen=True)
class Templates:
    """Texts with ``{c}`` for a finding and ``{l}`` for the same in lower case.

    Attributes:
        positive: Of images with the finding, at least one.
        negative: Of images without it.
    """

    positive: list[str]
    negative: list[str]


@dataclass(frozen=True)
class PromptFamily:
    """One way to word all findings.

    Attributes:
        positive: As :class:`Templates`.
        negative: As :class:`Templates`.
        instead: Templates of single findings, whatever the case of their names.
    """

    positive: list[str]
    negative: list[str]
    instead: dict[str, Templates] = field(default_factory=dict)

    def texts(self, finding: str) -> tuple[list[str], list[str]]:
        """The texts for and against a finding.

        Raises:
            ConfigError: A template has no text, or another field than c and l.
        """
        special = {name.casefold(): templates for name, templates in self.instead.items()}
        chosen = special.get(finding.casefold(), Templates(self.positive, self.negative))
        sides = []
        for templates in (chosen.positive, chosen.negative):
            try:
                texts = [one.format(c=finding, l=finding.lower()) for one in templates]
            except (KeyError, IndexError, ValueError) as error:
                raise ConfigError(
                    f"prompts: the templates {templates} may hold {{c}} and {{l}} only ({error!r})"
                ) from None
            if not texts or not all(text.strip() for text in texts):
                raise ConfigError(f"prompts: no text for or against {finding!r}")
            sides.append(texts)
        return sides[0], sides[1]


def builtin_families() -> dict[str, PromptFamily]:
    """The families of ``prompts.yaml``."""
    document = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text("utf-8"))
    return {name: _family(body) for name, body in document.items()}


def families(
    names: list[str] | None, own: Mapping[str, PromptFamily] | None
) -> dict[str, PromptFamily]:
    """Families by name, in the order of ``names``.

    Args:
        names: None: all, the built-in ones first.
        own: A user's; they may replace built-in ones.

    Raises:
        ConfigError: A name that is in neither.
    """
    known = builtin_families() | dict(own or {})
    unknown = sorted(set(names or ()) - set(known))
    if unknown or names == []:
        raise ConfigError(
            f"prompts: no family {', '.join(unknown) or 'given'}; there are {', '.join(known)}"
        )
    return {name: known[name] for name in names or known}


def _family(body: Mapping[str, object]) -> PromptFamily:
    instead = body.get("instead") or {}
    assert isinstance(instead, Mapping)
    return PromptFamily(
        list(body["positive"]),  # type: ignore[call-overload]
        list(body["negative"]),  # type: ignore[call-overload]
        {name: Templates(**templates) for name, templates in instead.items()},
    )

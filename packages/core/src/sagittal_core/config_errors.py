"""What jsonargparse says of a mistake, in the few words that matter."""

from __future__ import annotations

import re

_FRAME = (
    "Parser key",
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Problem with given class_path",
    "Given value",
)
# Said of every alternative of a union that was not meant: worth a line only if nothing else is.
_ASIDE = (
    "Expected a <class 'NoneType'>",
    "Expected a dot import path string",
    "Unexpected import path format",
    "Import path ",
)


def plain(message: str) -> str:
    """Return ``<key>: <reason>; <reason>`` for a nested message of jsonargparse.

    A value that fits none of several types fills a screen with every type it might have had, the
    whole of the section it stands in included; what the user did wrong is one line in the middle.

    Args:
        message: Text of an ``ArgumentError``, or of an error raised while classes are made.

    Returns:
        One line, or the message itself where it has no such nesting.
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    if not any(line.startswith(_FRAME) for line in lines):
        return message
    reasons = list(dict.fromkeys(line for line in lines if line and not line.startswith(_FRAME)))
    telling = [reason for reason in reasons if not reason.startswith(_ASIDE)]
    if not telling:
        telling = [*reasons, *_alternatives(lines)]
    value = next((line for line in lines if line.startswith("Given value: ")), "")
    if all(reason.startswith("Expected") and "Got value" not in reason for reason in telling):
        telling.append(f"found {value.removeprefix('Given value: ')}")
    keys = re.findall(r'Parser key "([^"]+)":', message)
    inside = message.count("Problem with given class_path") >= len(keys) - 1
    path = (".init_args." if inside else ".").join(keys)
    return (f"{path}: " if path else "") + "; ".join(telling)


def _alternatives(lines: list[str]) -> list[str]:
    """The classes that a value could have named."""
    listed = next((line for line in lines if line.startswith("Subtypes:")), "")
    names = [name.rpartition(".")[2] for name in re.findall(r"<class '([^']+)'>", listed)]
    names = [name for name in names if name != "NoneType"]
    return [f"allowed: {', '.join(names)}"] if names else []

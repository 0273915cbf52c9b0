"""Errors that a user can act on: they name the place, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sagittal_core.config_errors import plain


class DataError(ValueError):
    """A file or value supplied by the user is not what the reader needs.

    Args:
        file: The offending file (or another name of the source).
        key: The dataset, attribute, column or argument inside ``file``.
        expected: What a valid value looks like, in words.
        found: What is there instead. Never a patient identifier: messages may be logged.
        hint: One sentence that says how to put it right; may be empty.
    """

    def __init__(
        self, file: str | Path, *, key: str, expected: str, found: str, hint: str = ""
    ) -> None:
        self.file = str(file)
        self.key = key
        self.expected = expected
        self.found = found
        self.hint = hint
        lines = [
            f"cannot use {self.file}",
            f"  key:      {key}",
            f"  expected: {expected}",
            f"  found:    {found}",
        ]
        if hint:
            lines.append(f"  hint:     {hint}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled when a DataLoader worker raises; the default would pass only str().
        return (_restore, (self.file, self.key, self.expected, self.found, self.hint))


def _restore(file: str, key: str, expected: str, found: str, hint: str) -> DataError:
    return DataError(file, key=key, expected=expected, found=found, hint=hint)


class ConfigError(ValueError):
    """A mistake in a YAML file or on the command line: printed, then exit status 2."""


@contextmanager
def mistakes_named(where: str) -> Iterator[None]:
    """Turn what a class of a configuration says of its arguments into a :class:`ConfigError`.

    The parser wraps it into an error of its own, with the whole configuration in it.

    Args:
        where: Name of the verb, for messages.
    """
    try:
        yield
    except (ConfigError, DataError):
        raise
    except ValueError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, (ConfigError, DataError)):
            raise cause from None
        if not isinstance(cause, ValueError):
            raise
        raise ConfigError(f"{where}: {plain(str(cause))}") from None

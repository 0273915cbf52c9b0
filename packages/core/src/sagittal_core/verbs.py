"""Verbs that are plain typed functions: imported only when asked for, run by jsonargparse."""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from sagittal_core.errors import ConfigError, mistakes_named
from sagittal_core.verb_help import verb_help


def load(target: str) -> Callable[..., Any]:
    """Import ``"module:function"``."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def run(prog: str, verb: str, target: str, args: list[str]) -> int:
    """Parse ``args`` by the function's signature and call it.

    Required parameters are positional, the others options; ``-c file.yaml`` may give any of them.
    A first one that is a list takes all words before the first option.

    Args:
        prog: Name of the program, for messages.
        verb: Name of the verb, for messages.
        target: ``"module:function"``; its docstring is the help text.
        args: The command line after the verb.

    Returns:
        The function's integer result, else 0.

    Raises:
        ConfigError: If the arguments do not fit the signature.
    """
    if args in (["--help"], ["-h"]):
        sys.stdout.write(verb_help(prog, verb, target))
        return 0
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    from sagittal_core.config_errors import plain

    function = load(target)
    _expect_known(function, args)
    summary = (function.__doc__ or "").strip().partition("\n\n")[0]
    parser = ArgumentParser(prog=f"{prog} {verb}", description=summary, exit_on_error=False)
    parser.add_argument("-c", "--config", action="config", help="YAML file with any of these")
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    try:
        values = parser.parse_args(_gathered(function, args))
    except ArgumentError as error:
        raise ConfigError(f"{verb}: {plain(str(error))}") from None
    values.pop("config", None)
    with mistakes_named(verb):
        arguments = parser.instantiate_classes(values).as_dict()
    result = function(**arguments)
    return result if isinstance(result, int) else 0


def _expect_known(function: Callable[..., Any], args: list[str]) -> None:
    """Refuse an option that there is none of; the parser would take its value for a positional."""
    known = [*inspect.signature(function).parameters, "config", "help", "print_config"]
    for word in args:
        if word == "--":
            return
        name = re.split(r"[=.+]", word[2:], maxsplit=1)[0]
        if word.startswith("--") and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean --{close[0]}?" if close else ""
            raise ConfigError(
                f"unknown option --{name}; allowed: {', '.join(f'--{k}' for k in known)}{meant}"
            )


def _gathered(function: Callable[..., Any], args: list[str]) -> list[str]:
    """The words that a leading list takes as one JSON list, which is what jsonargparse reads."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    options = (n for n, word in enumerate(args) if word.startswith("-"))
    count = next(options, len(args))
    listed = first is not None and str(first.annotation).startswith("list[")
    if not listed or not count or args[0].startswith("["):
        return args
    return [json.dumps(args[:count]), *args[count:]]

"""The command line of every Sagittal package: fit, validate, test, and its light verbs."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Mapping, Sequence

from sagittal_core import verbs as light
from sagittal_core.errors import ConfigError, DataError

_LIGHTNING = {
    "fit": "train a model; the same command again resumes it",
    "validate": "compute the validation metrics of a trained model",
    "test": "compute the test metrics of a trained model",
}


def main(
    args: Sequence[str] | None = None, *, prog: str, verbs: Mapping[str, str], register: str
) -> int:
    """Run one verb. Lightning and torch are imported only if the verb needs them.

    Args:
        args: The command line without the program's name; None: ``sys.argv[1:]``.
        prog: Name of the program.
        verbs: The light verbs, as verb to ``"module:function"``.
        register: Module imported before fit, validate and test, so that bare class names work.

    Returns:
        The exit status: 0 ok, 1 the training diverged, 2 a mistake in the configuration or the
        data, 3 the run is already finished, 130 interrupted.
    """
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_help(prog, verbs))
        return 0 if given else 2
    verb, rest = given[0], given[1:]
    try:
        if verb in _LIGHTNING:
            from sagittal_core import training

            return training.run(prog, verb, rest, register)
        if verb in verbs:
            return light.run(prog, verb, verbs[verb], rest)
        raise ConfigError(unknown("verb", verb, [*_LIGHTNING, *verbs]))
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return 3 if type(error).__name__ == "RunFinished" else 2
    except OSError as error:
        # A folder that cannot be written or a full disk is no bug: these name a file, or the disk.
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        sys.stderr.write(f"{prog}: {error.strerror}: {error.filename or 'no space left'}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted; the same command goes on where it stopped\n")
        return 130
    except SystemExit as stop:  # argparse ends --help and --print_config this way
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def unknown(kind: str, name: str, allowed: Sequence[str], where: str = "") -> str:
    """Return ``unknown <kind> '<name>' under <where>; allowed: ...; did you mean '...'?``."""
    place = f" under {where}" if where else ""
    message = f"unknown {kind} {name!r}{place}; allowed: {', '.join(sorted(allowed)) or 'none'}"
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"{message}; did you mean {close[0]!r}?" if close else message


def _help(prog: str, verbs: Mapping[str, str]) -> str:
    lines = [f"usage: {prog} VERB [-c CONFIG.yaml ...] [options]", "", "verbs:"]
    lines += [f"  {verb:<16} {text}" for verb, text in _LIGHTNING.items()]
    from sagittal_core.verb_help import summary

    lines += [f"  {verb:<16} {summary(target)}" for verb, target in verbs.items()]
    return "\n".join([*lines, "", f"`{prog} VERB --help` lists a verb's options.", ""])

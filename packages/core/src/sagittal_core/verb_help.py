"""A light verb's ``--help``, read from its source so that nothing heavy is imported to answer."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
from pathlib import Path

import docstring_parser


def verb_help(prog: str, verb: str, target: str) -> str:
    """Help text of a verb from its signature and docstring, without importing its module.

    Args:
        prog: name of the program.
        verb: name of the verb.
        target: ``"module:function"``, a plain annotated function with a Google-style docstring.

    Returns:
        The text that ``prog verb --help`` prints.

    Raises:
        ModuleNotFoundError: if there is no such module.
        LookupError: if the module has no such function.
    """
    function = _find_function(target)
    documented = docstring_parser.parse(_plain(ast.get_docstring(function) or ""))
    described = {parameter.arg_name: parameter.description for parameter in documented.params}
    text = [documented.short_description, documented.long_description]
    parser = argparse.ArgumentParser(
        prog=f"{prog} {verb}",
        description="\n\n".join(part for part in text if part),
        epilog=f"`{prog} {verb} --print_config` prints every value, those of nested classes too.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-c", "--config", help="YAML file with any of these")
    for name, kind, default in _parameters(function):
        note = f"type: {kind}" if default is None else f"type: {kind}, default: {default}"
        # argparse expands % in help texts
        meaning = f"{described.get(name) or ''} ({note})".replace("%", "%%")
        if default is None:
            parser.add_argument(name, help=meaning)
        else:
            parser.add_argument(f"--{name}", help=meaning)
    return parser.format_help()


def summary(target: str) -> str:
    """First sentence of a verb's docstring, without importing its module.

    Args:
        target: As of :func:`verb_help`.
    """
    text = ast.get_docstring(_find_function(target)) or ""
    return _plain(" ".join(text.partition("\n\n")[0].split()))


def _plain(text: str) -> str:
    """A docstring without the markup that only Sphinx reads."""
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")


def _find_function(target: str) -> ast.FunctionDef:
    """The syntax tree of ``"module:function"``."""
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module!r}")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise LookupError(f"{module} has no function {name!r}")


def _parameters(function: ast.FunctionDef) -> list[tuple[str, str, str | None]]:
    """Name, type and default (None: required) of every parameter, as written in the source."""
    plain = [*function.args.posonlyargs, *function.args.args]
    required = len(plain) - len(function.args.defaults)
    defaults: list[ast.expr | None] = [*[None] * required, *function.args.defaults]
    pairs = [*zip(plain, defaults, strict=True)]
    pairs += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return [
        (
            argument.arg,
            ast.unparse(argument.annotation) if argument.annotation else "any",
            None if default is None else ast.unparse(default),
        )
        for argument, default in pairs
    ]

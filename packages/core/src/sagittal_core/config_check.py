"""Finds mistakes in a YAML before jsonargparse does, and says what would be allowed."""

from __future__ import annotations

import importlib
import inspect
import typing
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from sagittal_core.cli import unknown
from sagittal_core.errors import ConfigError

_BASES: dict[str, type] = {"model": LightningModule, "data": LightningDataModule}
_TOP = (
    "seed_everything",
    "trainer",
    "model",
    "data",
    "ckpt_path",
    "run_name",
    "runs_dir",
    "fresh",
    "checkpoint_every_n_steps",
    "monitor",
    "monitor_mode",
    "verbose",
    "weights_only",
)


def check_files(args: list[str]) -> None:
    """Check every file given by ``-c`` or ``--config`` in a command line.

    Raises:
        ConfigError: For a missing or unreadable file, an unknown key or an unknown class.
    """
    for file in _config_files(args):
        if not file.is_file():
            raise ConfigError(f"no config file {file}")
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is no valid YAML: {error}") from None
        if not isinstance(config, Mapping):
            raise ConfigError(f"{file}: expected keys such as model, data and trainer")
        try:
            check(config)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None


def check(config: Mapping[str, Any]) -> None:
    """Check the keys of one configuration.

    Raises:
        ConfigError: Names the key, where it stands, what is allowed and the nearest match.
    """
    for key in config:
        if key not in _TOP:
            raise ConfigError(unknown("key", str(key), _TOP))
    trainer = config.get("trainer")
    if isinstance(trainer, Mapping):
        _check_keys(trainer, _parameters(Trainer), "trainer")
    for section, base in _BASES.items():
        value = config.get(section)
        if isinstance(value, Mapping) and "class_path" in value:
            _check_class(value, _resolve(str(value["class_path"]), base, section), section)


def _config_files(args: list[str]) -> Iterator[Path]:
    for position, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if name in ("-c", "--config"):
            if equals:
                yield Path(value)
            elif position + 1 < len(args):
                yield Path(args[position + 1])


def _check_class(value: Mapping[str, Any], cls: type, where: str) -> None:
    _check_keys(value, ["class_path", "init_args", "dict_kwargs"], where)
    given = value.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}.init_args: expected keys, found {type(given).__name__}")
    _check_keys(given, _parameters(cls), f"{where}.init_args")
    for key, inner in given.items():
        if isinstance(inner, Mapping) and "class_path" in inner:
            inner_where = f"{where}.init_args.{key}"
            found = _resolve_inner(str(inner["class_path"]), cls, str(key), inner_where)
            if found is not None:
                _check_class(inner, found, inner_where)


def _check_keys(given: Mapping[str, Any], allowed: list[str], where: str) -> None:
    for key in given:
        # "callbacks+" appends to a list.
        if str(key).rstrip("+") not in allowed:
            raise ConfigError(unknown("key", str(key), allowed, where))


def _parameters(cls: type) -> list[str]:
    # jsonargparse follows **kwargs to the base classes; inspect.signature does not.
    parser = ArgumentParser(exit_on_error=False)
    try:
        added = parser.add_class_arguments(cls, "x", fail_untyped=False)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"cannot read the parameters of {cls.__qualname__}: {error}") from None
    return sorted({name.split(".")[1] for name in added if "." in name})


def _resolve(path: str, base: type, where: str) -> type:
    if "." in path:
        return _import(path, where)
    classes = {cls.__name__: cls for cls in _subclasses(base)}
    if path not in classes:
        raise ConfigError(unknown("class_path", path, list(classes), where))
    return classes[path]


def _resolve_inner(path: str, cls: type, key: str, where: str) -> type | None:
    """The class that a parameter of ``cls`` asks for; None where its annotation names none."""
    if "." in path:
        return _import(path, where)
    try:
        hint = typing.get_type_hints(cls.__init__).get(key)  # type: ignore[misc]
    except (NameError, TypeError):  # an annotation that only a type checker can evaluate
        return None
    bases = [kind for kind in (hint, *typing.get_args(hint)) if inspect.isclass(kind)]
    classes = {c.__name__: c for base in bases for c in (base, *_subclasses(base))}
    if not bases or path in classes:
        return classes.get(path)
    # Of torch's own modules, hundreds, a bare name is never meant.
    ours = [name for name, c in classes.items() if not c.__module__.startswith("torch.")]
    offered = [name for name in ours if not inspect.isabstract(classes[name])]
    raise ConfigError(unknown("class_path", path, [n for n in offered if n != "NoneType"], where))


def _import(path: str, where: str) -> type:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import class_path {path!r} under {where}: {error}") from None
    return found


def _subclasses(base: type) -> Iterator[type]:
    cls: type
    for cls in base.__subclasses__():
        if not cls.__module__.startswith("lightning.") and not cls.__name__.startswith("_"):
            yield cls
        yield from _subclasses(cls)

"""``python -m sagittal_core``: what is installed, which kernels run, what is missing.

``python -m sagittal_core fetch`` puts the sample data into the cache; ``render README.md ...``
makes the tables anew that Markdown files show from committed results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import warnings
from pathlib import Path


def main(args: list[str] | None = None) -> int:
    """Print what is installed, fetch the sample data, or render results into Markdown files.

    Args:
        args: Command line without the program; ``sys.argv`` by default.

    Returns:
        Exit status: 0, 1 if the kernels asked for are not available, 2 if a file is not usable.
    """
    parser = argparse.ArgumentParser(prog="python -m sagittal_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("info", help="what is installed, which kernels run (the default)")
    fetch = commands.add_parser("fetch", help="put the sample data into the cache")
    fetch.add_argument("names", nargs="*", help="which; all of it by default")
    render = commands.add_parser("render", help="make the tables of Markdown files anew")
    render.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args(args)
    if given.command == "fetch":
        return _fetch(given.names)
    return _render(given.files) if given.command == "render" else _info()


def _fetch(names: list[str]) -> int:
    from sagittal_core import sample_data
    from sagittal_core.errors import DataError

    try:
        sample_data.fetch(names or None)
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _render(files: list[Path]) -> int:
    from sagittal_core.errors import DataError
    from sagittal_core.results import render_tables
    from sagittal_core.run_folder import write_atomically

    try:
        for file in files:
            write_atomically(file, render_tables(file))
            print(f"rendered {file}")
    except (DataError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _info() -> int:
    domains = ("sagittal-mri", "sagittal-genai", "sagittal-cxr", "sagittal-risk")
    for name in ("sagittal-core", *domains, "sagittal-kernels", "torch", "lightning"):
        print(f"{name:17} {_version(name)}")

    import torch

    from sagittal_core.ops import NativeUnavailableError, backend_info

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what it says is printed below
            info = backend_info()
    except NativeUnavailableError as error:
        print(f"{'kernels':17} {error}")
        return 1
    print(f"{'kernels':17} {info.mode} ({info.reason})")
    print(f"{'library':17} {info.path or 'none'}")
    print(f"{'instruction set':17} {info.isa or 'plain torch'}")
    print(f"{'compiler':17} {info.compiler or 'none'}")
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    print(f"{'CUDA device':17} {cuda}")
    print(f"{'CUDA kernels':17} {'loaded' if info.cuda else 'none'} ({info.cuda_reason})")
    _sample_data()
    if info.mode == "reference":
        print("\nThe reference is slow. In a checkout, with g++ and ninja at hand:")
        print("  pip install --no-build-isolation --no-deps .")
    return 0


def _sample_data() -> None:
    from sagittal_core import sample_data
    from sagittal_core.errors import DataError

    for name in sample_data.names():
        try:
            state = str(sample_data.path(name))
        except DataError:
            state = "missing: python -m sagittal_core fetch"
        print(f"{'sample data':17} {name}: {state}")


if __name__ == "__main__":
    sys.exit(main())

"""``python -m sagittal_core``: what is installed, which kernels run, what is missing.

``python -m sagittal_core fetch`` puts the sample data into the cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import warnings


def main(args: list[str] | None = None) -> int:
    """Print the report, or fetch the sample data.

    Args:
        args: Command line without the program; ``sys.argv`` by default.

    Returns:
        Exit status: 0, or 1 if what was asked for is not available.
    """
    parser = argparse.ArgumentParser(prog="python -m sagittal_core", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("info", "fetch"), default="info")
    if parser.parse_args(args).command == "fetch":
        from sagittal_core import sample_data

        sample_data.fetch()
        return 0
    return _info()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _info() -> int:
    for name in ("sagittal-core", "sagittal-mri", "sagittal-kernels", "torch", "lightning"):
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
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "no device"
    print(f"{'CUDA':17} {cuda}; {'CUDA' if info.cuda else 'no CUDA'} kernels")
    _sample_data()
    if info.mode == "reference":
        print("\nThe reference is slow. In a checkout, with g++ and ninja at hand:")
        print("  pip install --no-build-isolation --no-deps .")
    return 0


def _sample_data() -> None:
    from sagittal_core import sample_data
    from sagittal_core.errors import DataError

    for name in ("mni152_t1", "dipy_t1_coronal"):
        try:
            state = str(sample_data.path(name))
        except DataError:
            state = "missing: python -m sagittal_core fetch"
        print(f"{'sample data':17} {name}: {state}")


if __name__ == "__main__":
    sys.exit(main())

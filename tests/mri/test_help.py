"""``sagittal-mri VERB --help`` answers at once and names every parameter."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from sagittal_core import verbs

HELP = """
import sys
from sagittal_mri.cli import run
status = run([{verb!r}, "--help"])
heavy = {{"torch", "lightning", "numpy", "jsonargparse"}} & set(sys.modules)
assert not heavy, heavy
sys.exit(status)
"""


@pytest.mark.parametrize("verb", ["compare", "reconstruct"])
def test_help_names_every_parameter_and_imports_nothing_heavy(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(verb=verb)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    function = verbs.load(f"sagittal_mri.{verb}:{verb}")
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        assert (f"  {name} " if required else f"  --{name} ") in done.stdout

"""The console command ``sagittal-cxr``."""

from __future__ import annotations

import sys

from sagittal_core.cli import main as run_cli


def run(args: list[str] | None = None) -> int:
    """Run one verb and return its exit status (0 ok, 2 bad input or config, 3 run finished)."""
    verbs: dict[str, str] = {
        "benchmarks": "sagittal_cxr.benchmarks:benchmarks",
        "curate": "sagittal_cxr.curate:curate",
        "evaluate": "sagittal_cxr.evaluate:evaluate",
        "export": "sagittal_cxr.export:export",
        "index": "sagittal_cxr.indexing:index",
        "label": "sagittal_cxr.label:label",
        "score-reports": "sagittal_cxr.score_reports:score_reports",
    }
    return run_cli(args, prog="sagittal-cxr", verbs=verbs, register="sagittal_cxr.registry")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())

"""The console command ``sagittal-cxr``."""

from __future__ import annotations

import sys

from sagittal_core.cli import main as run_cli


def run(args: list[str] | None = None) -> int:
    """Run one verb and return its exit status (0 ok, 2 bad input or config, 3 run finished)."""
    verbs: dict[str, str] = {
        "label": "sagittal_cxr.label:label",
        "index": "sagittal_cxr.indexing:index",
        "export": "sagittal_cxr.export:export",
        "evaluate": "sagittal_cxr.evaluate:evaluate",
        "benchmarks": "sagittal_cxr.benchmarks:benchmarks",
        "export": "sagittal_cxr.export:export",
        "index": "sagittal_cxr.indexing:index",
        "curate": "sagittal_cxr.curate:curate",
        "score-reports": "sagittal_cxr.score_reports:score_reports",
    }
    return run_cli(args, prog="sagittal-cxr", verbs=verbs, register="sagittal_cxr.registry")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())

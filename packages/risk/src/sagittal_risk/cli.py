"""The console command ``sagittal-risk``."""

from __future__ import annotations

import sys

from sagittal_core.cli import main as run_cli


def run(args: list[str] | None = None) -> int:
    """Run one verb and return its exit status (0 ok, 2 bad input or config, 3 run finished)."""
    verbs: dict[str, str] = {
        "ask": "sagittal_risk.ask:ask",
        "cohort": "sagittal_risk.cohort:cohort",
        "evaluate": "sagittal_risk.evaluate:evaluate",
        "page": "sagittal_risk.page:page",
        "score": "sagittal_risk.score:score",
        "summarise": "sagittal_risk.summarise:summarise",
        "timelines": "sagittal_risk.timelines:timelines",
    }
    return run_cli(args, prog="sagittal-risk", verbs=verbs, register="sagittal_risk.registry")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())

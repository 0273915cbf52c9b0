"""The console command ``sagittal-genai``."""

from __future__ import annotations

import sys

from sagittal_core.cli import main as run_cli


def run(args: list[str] | None = None) -> int:
    """Run one verb and return its exit status (0 ok, 2 bad input or config, 3 run finished)."""
    verbs: dict[str, str] = {
        "evaluate": "sagittal_genai.evaluate:evaluate",
        "explain": "sagittal_genai.explain:explain",
        "export": "sagittal_genai.export:export",
        "search": "sagittal_genai.search:search",
        "slice": "sagittal_genai.slicing:slice_scans",
        "embed": "sagittal_genai.embed:embed",
        "import-embeddings": "sagittal_genai.import_embeddings:import_embeddings",
    }
    return run_cli(args, prog="sagittal-genai", verbs=verbs, register="sagittal_genai.registry")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run())

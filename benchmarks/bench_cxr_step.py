"""Times a training step of CheXficient on this CPU: EfficientNet-Lite0 and MiniLM, 64 pairs.

Runs alone: ``python benchmarks/bench_cxr_step.py [--sizes 128 160 224] [--tokens 32]``. It prints
pairs a second of a step (encode, InfoNCE, backward, AdamW) for each image size and for how much of
the encoders is trained, and of encoding without gradients, which is what a decision costs. With
``--results`` it writes a results file.
"""

import harness  # before torch: it sets how idle threads wait

# isort: split
import argparse
import statistics
from pathlib import Path

import torch
from rich.progress import track

from sagittal_core.encoders import VisionSpec
from sagittal_core.results import Cell, Table, write_results
from sagittal_cxr.batch import PairBatch
from sagittal_cxr.chexficient import CheXficient
from sagittal_cxr.curator import encode
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder

BATCH = 64
# Blocks of the image and of the text encoder that are trained; None: everything.
TRAINED = {"all": (None, None), "images, 2 text blocks": (None, 2), "last 4 and 2": (4, 2)}


def step_of(module: CheXficient, batch: PairBatch) -> harness.Work:
    """A whole step."""
    optimizer = module.configure_optimizers()
    kept = torch.ones(len(batch.rows), dtype=torch.bool)

    def step() -> None:
        optimizer.zero_grad()
        module.loss(batch, kept).backward()
        optimizer.step()

    return step


def decision_of(module: CheXficient, batch: PairBatch) -> harness.Work:
    """Rows without gradients."""

    def decide() -> None:
        with torch.no_grad():
            encode(module.network, batch, None)

    return decide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 160, 224])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32, help="of a text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (BATCH, given.tokens), generator=generator)
    rows: list[list[Cell]] = []
    for size in track(given.sizes, "image sizes", transient=True):
        images = torch.randn(BATCH, 3, size, size, generator=generator)
        batch = PairBatch(images, ids, torch.ones_like(ids), torch.arange(BATCH))
        works: dict[str, harness.Work] = {}
        for name, (vision_blocks, text_blocks) in TRAINED.items():
            vision = ImageEncoder(VisionSpec(image_size=size), trained_blocks=vision_blocks)
            text = TextEncoder(pooling="mean", trained_blocks=text_blocks)
            module = CheXficient(ImageTextModel(vision, text, temperature=0.07))
            works[name] = step_of(module, batch)
        works["decision"] = decision_of(module, batch)
        for work in works.values():  # warm up
            work()
        times = harness.interleaved(works, given.rounds)
        rates = [BATCH / (statistics.median(t) / 1e3) for t in times.values()]
        rows.append([size, *(round(rate, 1) for rate in rates)])
        print(f"{size} px:", ", ".join(f"{n} {r:.1f}/s" for n, r in zip(times, rates, strict=True)))
    if given.results is not None:
        table: Table = (["px", *TRAINED, "decision"], rows)
        write_results(
            given.results,
            command="python benchmarks/bench_cxr_step.py",
            seeds=[0],
            n={
                "pairs a step": BATCH,
                "tokens a text": given.tokens,
                "rounds": given.rounds,
                "threads": given.threads,
            },
            tables={"pairs-per-second": table},
        )


if __name__ == "__main__":
    main()

"""One DDP step of CheXficient in two processes, for the gradient test; not collected."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from tiny_models import WORDS
from torch import Tensor, nn

from sagittal_core.encoders import VisionSpec
from sagittal_cxr.batch import PairBatch
from sagittal_cxr.chexficient import CheXficient
from sagittal_cxr.nn.image_text import ImageTextModel
from sagittal_cxr.nn.text import TextEncoder
from sagittal_cxr.nn.vision import ImageEncoder
from sagittal_cxr.objectives import InfoNCE, SigLIP

# Which of six pairs are kept; rank r holds pairs r, r + 2, r + 4.
KEPT = {
    "all": [True] * 6,
    "two and three": [True, True, False, True, True, True],
    "none on rank 1": [True, False, True, False, True, False],
}
OBJECTIVES = ("InfoNCE", "SigLIP")


class Step(nn.Module):
    """The training loss as a forward pass, which is what DDP hooks into."""

    def __init__(self, folder: Path, objective: str, chunk: int | None = None) -> None:
        super().__init__()
        vision = ImageEncoder(VisionSpec("transformers", str(folder / "vision")))
        text = TextEncoder(str(folder / "text"))
        bias = -10.0 if objective == "SigLIP" else None
        network = ImageTextModel(vision, text, dim=8, temperature=0.5, logit_bias=bias)
        loss = SigLIP() if objective == "SigLIP" else InfoNCE()
        self.model = CheXficient(network, loss, chunk=chunk).double()
        self.model.network.eval()  # without dropout

    def forward(self, batch: PairBatch, kept: Tensor) -> Tensor:
        return self.model.loss(batch, kept)


def batch(step: Step, places: list[int]) -> PairBatch:
    """Some of six pairs."""
    images = torch.randn(6, 3, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    texts = [" ".join(WORDS[i : i + 2 + i]) for i in range(6)]
    ids, mask = step.model.network.tokenize(texts)
    return PairBatch(images[places], ids[places], mask[places], torch.tensor(places))


def result(module: nn.Module, step: Step, places: list[int], kept: list[bool]) -> Tensor:
    """Loss and gradient, as one vector."""
    module.zero_grad()
    loss = module(batch(step, places), torch.tensor([kept[i] for i in places]))
    loss.backward()
    gradients = [p.grad.flatten() for p in step.parameters() if p.grad is not None]
    return torch.cat([loss.detach()[None], *gradients])


def work(rank: int, folder: str) -> None:
    """One of two ranks; each stores what it found."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for objective in OBJECTIVES:
        for chunk in (None, 2):
            step = Step(Path(folder), objective, chunk)
            module = nn.parallel.DistributedDataParallel(step)
            for name, kept in KEPT.items():
                found[f"{objective} {chunk} {name}"] = result(
                    module, step, [rank, rank + 2, rank + 4], kept
                )
    torch.save(found, Path(folder) / f"{rank}.pt")
    # Before the group, which it would otherwise end with the interpreter's lock held: a deadlock.
    del module
    torch.distributed.destroy_process_group()

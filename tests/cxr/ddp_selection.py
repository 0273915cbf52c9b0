"""Selectors in two processes, each with half of every batch; run by the test, not collected."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from curation_data import pairs

from sagittal_cxr.curation.prototypes import PrototypeSelector
from sagittal_cxr.curation.selector import Candidates
from sagittal_cxr.curation.semdedup import SemDeDupSelector
from sagittal_cxr.objectives import gather_in_order

BATCHES = 4


def decisions(gather: bool, places: slice) -> list[torch.Tensor]:
    """Keep of every batch and both rules, and the prototypes at the end."""
    rules = [
        PrototypeSelector(prototypes=3, ratio=0.4, warmup_batches=1, memory=20),
        SemDeDupSelector(0.4),
    ]
    found = []
    for step in range(BATCHES):
        part = Candidates(*(field[places] for field in pairs(24, step, first=100 * step)[:3]))
        whole = Candidates(*map(gather_in_order, part[:3])) if gather else part
        for rule in rules:
            selection = rule.select(whole, step=step)
            rule.update(whole, selection)
            found.append(selection.keep)
    return [*found, rules[0].prototypes]


def work(rank: int, folder: str) -> None:
    """One of two ranks."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(decisions(True, slice(rank, None, 2)), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()

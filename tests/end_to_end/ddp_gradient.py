"""One DDP training step of UNITS, for the two-process test: run by a subprocess, not collected."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from sagittal_mri.data.batch import collate
from sagittal_mri.data.simulate import SimulatedScans
from sagittal_mri.data.simulate_radial import SimulatedRadialScans
from sagittal_mri.nn.unrolled import UnrolledNetwork
from sagittal_mri.partitions import KWeightedSSDU
from sagittal_mri.units import UNITS

SAMPLINGS = ("columns", "spokes")


def wide(field: torch.Tensor) -> torch.Tensor:
    """Double precision, so that the order of a sum does not blur the comparison."""
    if field.is_complex():
        return field.to(torch.complex128)
    return field.double() if field.is_floating_point() else field


class Objective(nn.Module):
    """The training loss as a forward pass, which is what DDP hooks into."""

    def __init__(self, sampling: str) -> None:
        super().__init__()
        self.sampling = sampling
        torch.manual_seed(0)
        network = UnrolledNetwork(iterations=2, channels=4, levels=1, cg_iterations=4)
        self.units = UNITS(network, KWeightedSSDU())
        for parameter in self.parameters():  # the zero-initialised layer would hide the others
            parameter.data.add_(0.01)
        self.double()

    def forward(self, indices: list[int]) -> torch.Tensor:
        rows, columns = torch.linspace(-1, 1, 24)[:, None], torch.linspace(-1, 1, 32)[None]
        slices = torch.stack([((rows**2 + columns**2) < r).float() for r in (0.6, 0.8)])
        options = {"coils": 3, "calibration": 16}
        if self.sampling == "columns":
            scans = SimulatedScans(slices, [3, 4], accelerations=(1.5,), **options)
        else:
            scans = SimulatedRadialScans(slices, [3, 4], acceleration=2.5, groups=4, **options)
        batch = collate([scans[i] for i in indices])
        batch = type(batch)(*(wide(field) for field in batch))
        return self.units.loss(batch, self.units.views(batch))


def flat(module: nn.Module) -> torch.Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def gradient(sampling: str, indices: list[int]) -> torch.Tensor:
    """Gradient of the joined batch in one process."""
    objective = Objective(sampling)
    objective(indices).backward()
    return flat(objective)


def work(rank: int, folder: str) -> None:
    """One of two ranks, each with one scan; rank 0 stores the averaged gradients."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = torch.distributed.FileStore(str(Path(folder) / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = {}
    for sampling in SAMPLINGS:
        module = nn.parallel.DistributedDataParallel(Objective(sampling))
        module([rank]).backward()
        found[sampling] = flat(module)
    if rank == 0:
        torch.save(found, Path(folder) / "two.pt")
    # The wrapper goes first: as the last to hold the group it would end gloo's threads while it has
    # the interpreter's lock, which one of them may wait for.
    del module
    torch.distributed.destroy_process_group()

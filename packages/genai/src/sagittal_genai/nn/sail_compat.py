"""The Matryoshka autoencoder as SAIL released it, quirks included, to reproduce published figures.

Use :class:`~sagittal_genai.nn.sae.SparseAutoencoder` for anything else: the decoder of this
one is not trained, and its published runs leave most features unused.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sagittal_core.ops.sparse import SparseCodes, sparse_decode, topk_encode
from sagittal_genai.nn.activations import Encoder
from sagittal_genai.nn.sae import SAEOutput, SparseAutoencoder


class ReleasedThreshold(nn.Module):
    """A BatchTopK without ReLU for each prefix in training, one soft threshold afterwards.

    Args:
        prefixes: Rising sizes of the nested dictionaries.
        k_values: Entries kept a row on average, for each prefix.
    """

    total: Tensor
    batches: Tensor

    def __init__(self, prefixes: list[int], k_values: list[int]) -> None:
        super().__init__()
        if len(k_values) != len(prefixes) or any(
            not 1 <= k <= end for k, end in zip(k_values, prefixes, strict=False)
        ):
            raise ValueError(
                f"k_values must be one number for each of the prefixes {prefixes}, at least 1 and "
                f"at most the prefix; got {k_values}"
            )
        self.prefixes, self.k_values = list(prefixes), list(k_values)
        self.register_buffer("total", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def threshold(self) -> Tensor:
        """theta: mean, over all training batches, of the least positive entry that was kept."""
        return self.total / self.batches.clamp(min=1)

    def levels(self, x: Tensor, encoder: Encoder) -> list[SparseCodes]:
        """What each prefix keeps of a training batch (N, D), negative entries too.

        The fused operators keep positive entries only, so this one makes the (N, F) matrix.
        """
        p = nn.functional.linear(x - encoder.shift, encoder.weight, encoder.bias)
        found = []
        for end, k in zip(self.prefixes, self.k_values, strict=True):
            values, chosen = p[:, :end].flatten().topk(k * len(x))
            rows = chosen // end
            order = rows.argsort(stable=True)  # rows in order, in each row by value
            offsets = rows.new_zeros(len(x) + 1)
            offsets[1:] = rows.bincount(minlength=len(x)).cumsum(0)
            found.append(SparseCodes((chosen % end)[order], values[order], offsets))
        self._follow(found[-1].values.detach())
        return found

    def forward(self, x: Tensor, encoder: Encoder) -> tuple[SparseCodes, Tensor]:
        """Codes of (N, D) rows: ``relu(p - theta)`` in evaluation; the penalty is 0.

        Raises:
            RuntimeError: In evaluation, before the first training batch.
        """
        if self.training:
            return self.levels(x, encoder)[-1], x.new_zeros(())
        if int(self.batches) == 0:
            raise RuntimeError("there is no threshold before the first training batch")
        theta = self.threshold.to(x.dtype)
        indices, p, offsets = topk_encode(
            x, encoder.weight, encoder.bias, mode="threshold", b_d=encoder.shift, threshold=theta
        )
        return SparseCodes(indices, p - theta, offsets), x.new_zeros(())

    @torch.no_grad()
    def _follow(self, kept: Tensor) -> None:
        positive = kept[kept > 0]
        least = positive.min() if len(positive) else kept.new_zeros(())
        # One device in SAIL; several take the mean over those that kept a positive entry.
        seen = torch.stack([least.double(), least.new_tensor(len(positive) > 0).double()])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(seen)
        if bool(seen[1] > 0):
            self.total += (seen[0] / seen[1]).to(self.total)
            self.batches += 1


class SAILCompat(SparseAutoencoder):
    """MatryoshkaSAE of SAIL (Wesp et al., 2026) as its code trains it.

    What it does otherwise than :class:`~sagittal_genai.nn.sae.SparseAutoencoder`:

    - each prefix chooses for itself, over the batch, and without a ReLU, so that negative entries
      are kept where fewer than ``N k`` are positive;
    - the decoder gets no gradient: tied, ``W_e`` learns through the encoder alone; untied, ``W_d``
      stays as it was drawn;
    - its rows have unit length at first and not afterwards, and nothing revives dead features;
    - evaluation subtracts the threshold, a mean over all batches from the first one on, so that
      reconstructions shrink;
    - inputs are not scaled, and ``b_d`` starts at zero.

    The released code evaluates with the k largest of each row while it has counted fewer than 100
    batches; this one uses its threshold from the first batch on.

    Args:
        input_dim: D.
        prefixes: Rising sizes of the nested dictionaries; the last one is F.
        k_values: Entries kept a row on average, for each prefix.
        tied: Whether ``W_d`` is ``W_e``, as in all published runs.
        seed: Of the first weights.
    """

    def __init__(
        self,
        input_dim: int,
        prefixes: list[int],
        k_values: list[int],
        tied: bool = True,
        seed: int = 0,
    ) -> None:
        activation = ReleasedThreshold(prefixes, k_values)
        super().__init__(input_dim, prefixes[-1], activation, prefixes, tied, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in [self.W_e] if tied else [self.W_e, self.W_d]:
                nn.init.xavier_uniform_(weight, generator=generator)
        self.W_d.requires_grad_(tied)
        super().normalise()

    def initialise(self, rows: Tensor) -> None:
        """Nothing is taken from the rows."""
        self.initialised.fill_(True)

    def forward(self, x: Tensor) -> SAEOutput:
        """Encode and decode (N, D) rows."""
        if not self.training:
            return super().forward(x)
        assert isinstance(self.activation, ReleasedThreshold)
        levels = self.activation.levels(x, Encoder(self.W_e, self.b_e, self.b_d))
        decoded = [
            sparse_decode(i, values, self.W_d.detach(), self.b_d, offsets=offsets)
            for i, values, offsets in levels
        ]
        return SAEOutput(torch.stack(decoded), x, levels[-1], x.new_zeros(()))

    def auxiliary_loss(self, out: SAEOutput, dead_after: int, k_aux: int) -> Tensor:
        """There is none.

        Raises:
            ValueError: Always.
        """
        raise ValueError("SAIL's released code has no AuxK: set aux to 0")

    def project_gradient(self) -> None:
        """The gradient stays as it is."""

    def normalise(self) -> None:
        """Lengths are free after the first step."""

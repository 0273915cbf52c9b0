"""Joint example selection: a sub-batch that is learnable together."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from sagittal_core.errors import ConfigError
from sagittal_cxr.curation.checked import cosines, needed, uniform_of
from sagittal_cxr.curation.quota import highest
from sagittal_cxr.curation.scores import ExactShare
from sagittal_cxr.curation.selector import Candidates


class JESTSelector(ExactShare):
    """Draws a sub-batch from a super-batch, chunk by chunk, by conditional learnability.

    JEST, Evans et al. 2024, algorithm 1. Learnability is the learner's loss minus that of a
    reference model. Contrastive losses belong to batches, so chunks are drawn in turn: each pair's
    chance in the next one is proportional to exp of the learnability that it would add to the pairs
    S drawn before. With the sigmoid loss l_ij of SigLIP (image i, text j) and s = l(learner) -
    l(reference) that is ``s_jj + sum over i in S of (s_ij + s_ji)``, as published. The first
    chunk is drawn by s_jj alone.

    ``loss: softmax`` is for learners trained with InfoNCE, which is no sum over pairs: a pair's
    term is its own symmetric cross-entropy among S and itself, learner minus reference (for the
    first chunk, among the whole super-batch). What it adds to the other pairs' terms is left out.

    Departures: both models' similarities are scaled by the same given numbers, not each by its own
    learnt temperature; draws are by seed, step and row number; the super-batch is the batch that
    training hands over, ``ratio`` of it is kept.

    Args:
        ratio: Share of pairs to keep, in (0, 1] (published: 0.2).
        chunks: Number of draws (published: 16).
        loss: sigmoid, or softmax.
        scale: Of cosines (1 / temperature); SigLIP begins with 10, CLIP with 1 / 0.07.
        bias: Added after scaling in the sigmoid loss; SigLIP begins with -10.
        seed: Of the draws.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reasons = ("drawn", "not drawn")
    needs_reference = True

    def __init__(
        self,
        ratio: float,
        chunks: int = 16,
        loss: Literal["sigmoid", "softmax"] = "sigmoid",
        scale: float = 10.0,
        bias: float = -10.0,
        seed: int = 0,
    ) -> None:
        super().__init__(ratio, seed)
        if chunks < 1 or scale <= 0.0 or loss not in ("sigmoid", "softmax"):
            raise ConfigError(
                f"JESTSelector: chunks {chunks} from 1, scale {scale} above 0, loss {loss!r} of"
                " sigmoid, softmax"
            )
        self.chunks, self.loss, self.scale, self.bias = chunks, loss, scale, bias

    def marked(self, candidates: Candidates, count: int, step: int) -> Tensor:
        """Draw the sub-batch.

        Raises:
            DataError: If the batch lacks the reference model's embeddings.
        """
        images, texts = needed(candidates, "JESTSelector", "reference_images", "reference_texts")
        learner = self.scale * cosines(candidates.images, candidates.texts)
        reference = self.scale * cosines(images, texts)
        drawn = torch.zeros(len(learner), dtype=torch.bool)
        for chunk in range(self.chunks):
            size = (count * (chunk + 1)) // self.chunks - int(drawn.sum())
            if size == 0:
                continue
            logits = self.conditional(learner, drawn) - self.conditional(reference, drawn)
            # The largest of logits plus Gumbel noise are draws without replacement.
            uniform = uniform_of(candidates.rows, self.seed, "jest", step, chunk)
            noise = -torch.log(-torch.log(uniform))
            drawn |= highest((logits + noise).masked_fill(drawn, -torch.inf), size)
        return drawn

    def conditional(self, logits: Tensor, drawn: Tensor) -> Tensor:
        """Loss that each pair would add to those drawn.

        Args:
            logits: (N, N) scaled cosines of image i and text j.
            drawn: (N,) bool.

        Returns:
            (N,) float64.
        """
        if self.loss == "sigmoid":
            own = -logsigmoid(logits.diagonal() + self.bias)
            others = -logsigmoid(-(logits + self.bias))
            others.fill_diagonal_(0.0)
            return own + others[drawn].sum(0) + others[:, drawn].sum(1)
        among = drawn if bool(drawn.any()) else torch.ones_like(drawn)
        seen = among[None, :] | torch.eye(len(drawn), dtype=torch.bool)
        rows = logits.masked_fill(~seen, -torch.inf).logsumexp(1)
        columns = logits.T.masked_fill(~seen, -torch.inf).logsumexp(1)
        return (rows + columns) / 2.0 - logits.diagonal()

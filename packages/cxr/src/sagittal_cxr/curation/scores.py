"""Selectors that rank the pairs of a batch by one number and keep the top share."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from sagittal_cxr.curation.checked import needed, ordered, own_cosines, restored, uniform_of
from sagittal_cxr.curation.quota import Quota, highest
from sagittal_cxr.curation.selector import Candidates, Selection, Selector


class ExactShare(Selector):
    """What selectors have in common that keep exactly the number they are asked for.

    Over all batches seen, the number kept is within half a pair of ``ratio`` times their number:
    rounding is carried from batch to batch.

    Args:
        ratio: Share of pairs to keep, in (0, 1].
        seed: Of what the rule draws, if anything.

    Raises:
        ConfigError: If the ratio is out of range.
    """

    reasons: tuple[str, ...] = ("kept", "left out")
    needs_losses = False
    needs_reference = False

    def __init__(self, ratio: float, seed: int = 0) -> None:
        self.ratio, self.seed = ratio, seed
        self.quota = Quota(ratio)

    @abstractmethod
    def marked(self, candidates: Candidates, count: int, step: int) -> Tensor:
        """(N,) bool with ``count`` of the ordered candidates."""

    def select(self, candidates: Candidates, *, step: int) -> Selection:
        """Keep the share that is due.

        Raises:
            DataError: If the batch is not valid, see :func:`.checked.ordered`.
        """
        batch, order = ordered(candidates)
        keep = self.marked(batch, self.quota.of(len(order)), step)
        return restored(keep, (~keep).long(), order, candidates.rows)

    def update(self, candidates: Candidates, selection: Selection) -> None:
        """Count what was kept."""
        self.quota.add(len(selection.keep), int(selection.keep.sum()))

    def state_dict(self) -> dict[str, Tensor]:
        """Pairs seen and kept so far."""
        return self.quota.state()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take them back."""
        self.quota.restore(state)


class TopShare(ExactShare):
    """Keeps the pairs of highest score; ties fall to the lower row number."""

    @abstractmethod
    def scores(self, candidates: Candidates) -> Tensor:
        """(N,) float64 of ordered candidates."""

    def marked(self, candidates: Candidates, count: int, step: int) -> Tensor:
        """The highest."""
        return highest(self.scores(candidates), count)


class RandomSelector(TopShare):
    """A random share: the control that every other rule has to beat at the same ratio.

    A pair's rank comes from the seed and its row number alone, so a pair keeps its luck in every
    epoch and on every machine; only where the cut falls depends on the rest of the batch.

    Args:
        ratio: Share of pairs to keep, in (0, 1].
        seed: Another seed keeps other pairs.
    """

    reasons = ("drawn", "not drawn")

    def scores(self, candidates: Candidates) -> Tensor:
        """A number in (0, 1) of each row."""
        return uniform_of(candidates.rows, self.seed, "random selector")


class CLIPScoreSelector(TopShare):
    """The pairs whose image and text agree most, by the cosine of their embeddings.

    The filter of LAION-400M (Schuhmann et al. 2021) and a baseline of DataComp (Gadre et al. 2023,
    section 3.4). Departures: those score a whole pool once with a frozen CLIP and cut at a fixed
    cosine or a share of the pool; here the share is cut in each batch, with whatever model made the
    embeddings, which in training is the learner itself.

    Args:
        ratio: Share of pairs to keep, in (0, 1].
    """

    reasons = ("high cosine", "low cosine")

    def __init__(self, ratio: float) -> None:
        super().__init__(ratio)

    def scores(self, candidates: Candidates) -> Tensor:
        """Cosine of image and text."""
        return own_cosines(candidates.images, candidates.texts)


class RHOSelector(TopShare):
    """The pairs of highest reducible loss: not yet learnt, but learnable.

    RHO-LOSS, Mindermann et al. 2022, equation 3: the learner's loss minus the irreducible loss,
    which is that of a reference model. Departures: the published reference is trained on held-out
    data of the same distribution, here it is whatever model gave ``reference_losses``; and the
    losses are contrastive, so they depend on the batch that they were taken in.

    Args:
        ratio: Share of pairs to keep, in (0, 1].
    """

    reasons = ("reducible loss high", "reducible loss low")
    needs_losses = True
    needs_reference = True

    def __init__(self, ratio: float) -> None:
        super().__init__(ratio)

    def scores(self, candidates: Candidates) -> Tensor:
        """Loss minus reference loss."""
        losses, reference = needed(candidates, "RHOSelector", "losses", "reference_losses")
        return losses - reference

"""Prototype-driven curation: the rule of CheXficient."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sagittal_core.errors import ConfigError, DataError
from sagittal_cxr.curation import bands, sigma
from sagittal_cxr.curation.checked import ordered, restored, uniform_of
from sagittal_cxr.curation.kmeans import kmeans, squared_distances
from sagittal_cxr.curation.quota import Quota, highest
from sagittal_cxr.curation.selector import Candidates, Selection, Selector
from sagittal_cxr.curation.shares import kept_share, sigma_share

_REASONS = (
    *("central", "support", "outlier", "redundant", "warm-up drawn", "warm-up not drawn"),
    *("periphery", "tail"),  # with bands: sigma
)
_REDUNDANT, _DRAWN, _NOT_DRAWN = 3, 4, 5


class PrototypeSelector(Selector):
    """Keeps what is far from prototypes, thins out what is near, and drops what is farthest.

    CheXficient (arXiv 2602.22843; official code at commit 93b55e9). A pair is the unit vector z of
    its image and text embedding side by side. Within the cluster of each of K prototypes:

    ==========  ======================  ==============================================
    band        distance to prototype   kept
    ==========  ======================  ==============================================
    outlier     d > q95                 none: likely a wrong pair
    support     q85 < d <= q95          all: under-represented
    central     d <= q85                at most ``cap`` farthest points; the rest is redundant
    ==========  ======================  ==============================================

    With ``bands: sigma`` the rule is that of a later commit, 491163e, see :mod:`.sigma`: bands by
    mean and standard deviation, a share ``budget`` of what is central or peripheral, the whole
    tail. It goes with ``prototypes: 32``.

    After each step the prototypes move, p <- 0.9 p + 0.1 m to unit length, towards the mean m of
    the kept pairs that a balanced assignment gives them.

    **Share kept.** As published (``ratio: null``) it follows from batch size, K and cap, see
    :func:`.shares.kept_share`: 22.5 % of 480 pairs with K = 6 and cap 10, but 75 % of 96. With a
    ``ratio`` the cap is derived instead, in every batch and possibly uneven by one between
    clusters, and what one batch's rounding leaves over goes to the next. Support is never thinned
    and outliers are never kept, so a batch may miss its number, which later ones make up for; over
    all batches the number kept is then within half a pair of ``ratio`` times the number seen.

    **Before there are prototypes.** As published, they come from a pass of its own over ten batches
    of one GPU (800 pairs), without training: call :meth:`warm_up` with such batches before the
    first step until it returns True. Without that, the first ``warmup_batches`` global batches of
    training are the warm-up: of these a random share (``ratio``, or what the rule would keep of
    such a batch) is kept and trained on, with reasons of its own, and the prototypes are the
    normalised k-means centroids of all their pairs. A run with fewer batches than that curates
    nothing; :attr:`ready` says so.

    **Variations**, off by default. Near-duplicates are equally far from a prototype, so a band that
    is always kept keeps all of them: with ``thin: all`` the support band goes through the sampling
    of farthest points too. A cluster smaller than its cap is kept whole as well: with ``thin:
    radius`` clusters have no caps, but the sampling of each goes on until no pair is farther than
    one radius, the same for all, from what is chosen; the radius is that which keeps ``ratio``.
    With ``memory`` the latest kept pairs of earlier batches count as chosen, for otherwise a
    near-duplicate in another batch goes unseen; what the encoders have learnt since then is not
    in it. ``benchmarks/study_curation.py`` compares them.

    With ``bands: sigma`` it is ``budget`` and the tail, 21.7 % of large clusters with normal
    distances (:func:`.shares.sigma_share`); with a ``ratio`` the budgets are derived from it, in
    proportion to the clusters. The tail is kept whole, however small the ratio.

    Departures: farthest-point sampling starts from a pair drawn by seed and row number (published:
    unseeded), and never takes a pair twice. A batch smaller than K, and clusters without pairs, are
    fine; an empty cluster's prototype stays where it is. The later commit draws the assignment
    that moves the prototypes with noise much larger than its weights, which is close to a uniform
    choice; here it is the largest in both. It takes its prototypes from batches that are trained on
    whole, one in a hundred; here from as many as ``warmup_batches`` says, without training.

    Args:
        prototypes: K.
        cap: Central pairs kept of a cluster at most, if ``ratio`` is None.
        ratio: Share of pairs to keep over all batches, between the support band's share (0 with
            ``thin: all`` and ``radius``) and that of all but outliers; None: as published.
        support: Lower quantile of the support band.
        outlier: Upper quantile of it.
        momentum: Of the prototypes.
        epsilon: Entropy of the balanced assignment.
        iterations: Of the balanced assignment.
        warmup_batches: Batches that the prototypes are initialised from.
        thin: central as published; all: outliers apart, every pair is sampled; radius: that, by one
            radius in place of caps. Only by quantiles.
        memory: Kept pairs of earlier batches to remember; 0 as published.
        seed: Of k-means, of the first points and of what is drawn in the warm-up.
        bands: quantile as first published; sigma as in the later commit, where ``cap``, ``support``
            and ``outlier`` mean nothing.
        budget: Share kept of a cluster's central and peripheral pairs, with ``bands: sigma`` and
            without a ``ratio``.

    Attributes:
        prototypes: (K, 2D) float64 unit rows; (0, 0) before there are any.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reasons = _REASONS
    needs_losses = False
    needs_reference = False

    def __init__(
        self,
        prototypes: int = 6,
        cap: int = 10,
        ratio: float | None = None,
        support: float = 0.85,
        outlier: float = 0.95,
        momentum: float = 0.9,
        epsilon: float = 0.5,
        iterations: int = 3,
        warmup_batches: int = 10,
        thin: Literal["central", "all", "radius"] = "central",
        memory: int = 0,
        seed: int = 0,
        bands: Literal["quantile", "sigma"] = "quantile",
        budget: float = 0.2,
    ) -> None:
        _expect_valid(prototypes, cap, support, outlier, momentum, epsilon)
        if thin not in ("central", "all", "radius") or (thin == "radius" and ratio is None):
            raise ConfigError(
                f"PrototypeSelector: thin {thin!r} of central, all, radius; radius needs a ratio"
            )
        if bands == "quantile":
            _expect_reachable(ratio, outlier - support if thin == "central" else 0.0, outlier)
        elif bands != "sigma" or thin != "central" or not 0.0 < budget <= 1.0:
            raise ConfigError(
                f"PrototypeSelector: bands {bands!r} of quantile, sigma; sigma takes thin central,"
                f" got {thin}, and a budget in (0, 1], got {budget}"
            )
        if min(iterations, warmup_batches) < 1 or memory < 0:
            raise ConfigError(
                "PrototypeSelector: iterations and warmup_batches from 1, memory from 0; got"
                f" {iterations}, {warmup_batches}, {memory}"
            )
        self.clusters, self.cap, self.ratio = prototypes, cap, ratio
        self.support, self.outlier, self.momentum = support, outlier, momentum
        self.epsilon, self.iterations = epsilon, iterations
        self.warmup_batches, self.seed = warmup_batches, seed
        self.thin, self.memory = thin, memory
        self.bands, self.budget = bands, budget
        # Without a target it only counts.
        self.quota = Quota(1.0 if ratio is None else ratio)
        self.prototypes = torch.empty(0, 0, dtype=torch.float64)
        self._collected = torch.empty(0, 0, dtype=torch.float64)
        self._remembered = torch.empty(0, 0, dtype=torch.float64)
        self._batches = 0

    @property
    def ready(self) -> bool:
        """Whether there are prototypes."""
        return len(self.prototypes) > 0

    def select(self, candidates: Candidates, *, step: int) -> Selection:
        """Decide over one batch.

        Raises:
            DataError: If the batch is not valid, see :func:`.checked.ordered`, or of another width
                than the prototypes.
        """
        batch, order = ordered(candidates)
        if not self.ready:
            return self._draw(batch, order, candidates.rows)
        features = self._features(batch)
        distances, clusters = squared_distances(features, self.prototypes).sqrt().min(dim=1)
        if self.bands == "sigma":
            reasons = sigma.sigma_bands(distances, clusters)
            sampled = (reasons == bands.CENTRAL) | (reasons == sigma.PERIPHERY)
            always = reasons == sigma.TAIL
        else:
            reasons = bands.bands(distances, clusters, self.support, self.outlier)
            sampled, always = reasons == bands.CENTRAL, reasons == bands.SUPPORT
            if self.thin != "central":
                sampled, always = sampled | always, torch.zeros_like(always)
        wanted = max(self.quota.of(len(order)) - int(always.sum()), 0)
        inside = [sampled & (clusters == k) for k in range(self.clusters)]
        if self.bands == "sigma":
            chosen = self._sample_by_budget(batch.rows, features, inside, reasons, wanted, step)
        else:
            chosen = self._sample(batch.rows, features, inside, wanted, step)
        reasons[sampled & ~chosen] = _REDUNDANT
        return restored(chosen | always, reasons, order, candidates.rows)

    def update(self, candidates: Candidates, selection: Selection) -> None:
        """Count, and move the prototypes by the kept pairs; in the warm-up, collect all pairs."""
        self.quota.add(len(selection.keep), int(selection.keep.sum()))
        if not self.ready:
            self.warm_up(candidates)
            return
        batch, order = ordered(candidates)
        kept = self._features(batch)[selection.keep.cpu()[order]]
        if len(kept) == 0:
            return
        if self.memory:
            known = [self._remembered] if len(self._remembered) else []
            self._remembered = torch.cat([*known, kept])[-self.memory :]
        cosines = kept @ self.prototypes.T
        assigned = bands.balanced_assignment(cosines, self.epsilon, self.iterations)
        for k in assigned.unique().tolist():
            mean = kept[assigned == k].mean(0)
            moved = self.momentum * self.prototypes[k] + (1.0 - self.momentum) * mean
            self.prototypes[k] = normalize(moved, dim=0)

    def warm_up(self, candidates: Candidates) -> bool:
        """Take one batch's pairs for the initialisation, without deciding over them.

        Returns:
            Whether the prototypes are there now: after ``warmup_batches`` batches that hold at
            least K pairs together. Further batches then change nothing.
        """
        if self.ready:
            return True
        batch, _ = ordered(candidates)
        features = self._features(batch)
        self._collected = torch.cat([self._collected, features]) if self._batches else features
        self._batches += 1
        if self._batches >= self.warmup_batches and len(self._collected) >= self.clusters:
            centroids = kmeans(self._collected, self.clusters, seed=self.seed)
            self.prototypes = normalize(centroids, dim=1)
            self._collected = torch.empty(0, 0, dtype=torch.float64)
        return self.ready

    def state_dict(self) -> dict[str, Tensor]:
        """Prototypes, counts, and in the warm-up the pairs collected so far."""
        return self.quota.state() | {
            "prototypes": self.prototypes.clone(),
            "collected": self._collected.clone(),
            "remembered": self._remembered.clone(),
            "batches": torch.tensor(self._batches),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take them back.

        Raises:
            ConfigError: If the state is of another number of prototypes.
        """
        if len(state["prototypes"]) not in (0, self.clusters):
            raise ConfigError(
                f"PrototypeSelector: {len(state['prototypes'])} prototypes in the checkpoint,"
                f" {self.clusters} in the configuration"
            )
        self.quota.restore(state)
        self.prototypes = state["prototypes"].cpu().double().clone()
        self._collected = state["collected"].cpu().double().clone()
        self._remembered = state["remembered"].cpu().double().clone()
        self._batches = int(state["batches"])

    def _features(self, batch: Candidates) -> Tensor:
        """(N, 2D): image and text side by side, to unit length."""
        features = torch.cat([batch.images, batch.texts], dim=1) / math.sqrt(2.0)
        known = self.prototypes if self.ready else self._collected
        if len(known) and known.shape[1] != features.shape[1]:
            raise DataError(
                "candidates",
                key="images, texts",
                expected=f"{known.shape[1]} values together, as in earlier batches",
                found=str(features.shape[1]),
            )
        return features

    def _known(self, cluster: int) -> Tensor | None:
        """Remembered pairs whose nearest prototype is this one."""
        if not len(self._remembered):
            return None
        nearest = squared_distances(self._remembered, self.prototypes).argmin(1)
        return self._remembered[nearest == cluster]

    def _sample(
        self, rows: Tensor, features: Tensor, inside: list[Tensor], wanted: int, step: int
    ) -> Tensor:
        """(N,) bool: farthest points of each cluster, by its cap or by one radius for all."""
        sizes = [int(one.sum()) for one in inside]
        if self.ratio is None:
            limits = [min(size, self.cap) for size in sizes]
        elif self.thin == "radius":
            limits = [min(size, wanted) for size in sizes]
        else:
            limits = bands.caps(sizes, wanted, step)
        gap = self._gaps(rows, features, inside, limits)
        if self.thin == "radius":
            return highest(gap, min(wanted, sum(sizes)))
        return gap >= 0.0

    def _sample_by_budget(
        self,
        rows: Tensor,
        features: Tensor,
        inside: list[Tensor],
        reasons: Tensor,
        wanted: int,
        step: int,
    ) -> Tensor:
        """(N,) bool: farthest points of the centre and of the periphery of each cluster."""
        central = [one & (reasons == bands.CENTRAL) for one in inside]
        periphery = [one & (reasons == sigma.PERIPHERY) for one in inside]
        sizes = [(int(c.sum()), int(p.sum())) for c, p in zip(central, periphery, strict=True)]
        if self.ratio is None:
            kept = [sigma.budget_of(*size, self.budget) for size in sizes]
        else:
            kept = sigma.budgets([sum(size) for size in sizes], wanted, step)
        whole = self.ratio is not None
        limits = [sigma.split_budget(n, *size, whole) for n, size in zip(kept, sizes, strict=True)]
        gaps = self._gaps(rows, features, central, [limit for limit, _ in limits])
        others = self._gaps(rows, features, periphery, [limit for _, limit in limits])
        return (gaps >= 0.0) | (others >= 0.0)

    def _gaps(
        self, rows: Tensor, features: Tensor, inside: list[Tensor], limits: list[int]
    ) -> Tensor:
        """(N,) squared distance of each chosen point to those chosen before; -1: not chosen."""
        starts = uniform_of(rows, self.seed, "first point")
        gap = torch.full((len(rows),), -1.0, dtype=torch.float64)
        for k, (one, limit) in enumerate(zip(inside, limits, strict=True)):
            if limit:
                places = one.nonzero()[:, 0]
                first = int(starts[places].argmin())
                found, gaps = bands.farthest_points(features[places], limit, first, self._known(k))
                gap[places[found]] = gaps
        return gap

    def _draw(self, batch: Candidates, order: Tensor, like: Tensor) -> Selection:
        """A random share of a batch before there are prototypes."""
        count = len(order)
        if self.ratio is None:
            shares = (self.support, self.outlier)
            by_quantile = kept_share(max(count, 1), self.clusters, self.cap, *shares)
            share = sigma_share(self.budget) if self.bands == "sigma" else by_quantile
            wanted = round(count * share)
        else:
            wanted = self.quota.of(count)
        keep = highest(uniform_of(batch.rows, self.seed, "warm-up"), wanted)
        return restored(keep, torch.where(keep, _DRAWN, _NOT_DRAWN), order, like)


def _expect_valid(
    prototypes: int,
    cap: int,
    support: float,
    outlier: float,
    momentum: float,
    epsilon: float,
) -> None:
    if prototypes < 1 or cap < 0:
        raise ConfigError(f"PrototypeSelector: prototypes {prototypes} from 1, cap {cap} from 0")
    if not 0.0 <= support <= outlier <= 1.0:
        raise ConfigError(
            f"PrototypeSelector: expected 0 <= support <= outlier <= 1, got {support}, {outlier}"
        )
    if not 0.0 <= momentum <= 1.0 or epsilon <= 0.0:
        raise ConfigError(
            f"PrototypeSelector: momentum {momentum} in [0, 1], epsilon {epsilon} above 0"
        )


def _expect_reachable(ratio: float | None, least: float, most: float) -> None:
    # 0.95 - 0.85 is a little above 0.1 in binary.
    if ratio is not None and not least - 1e-9 <= ratio <= most + 1e-9:
        raise ConfigError(
            f"PrototypeSelector: ratio {ratio} is out of reach: a share of {least:.4g} is always"
            f" kept (the support band), and outliers ({1 - most:.4g}) never; move `support` and"
            " `outlier`, take `thin: all`, or choose a ratio in between"
        )

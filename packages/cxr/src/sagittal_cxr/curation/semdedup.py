"""Removal of semantic near-duplicates within clusters."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sagittal_core.errors import ConfigError
from sagittal_cxr.curation.kmeans import kmeans, squared_distances
from sagittal_cxr.curation.scores import TopShare
from sagittal_cxr.curation.selector import Candidates


class SemDeDupSelector(TopShare):
    """Drops pairs that are too much like another, which is farther from their cluster's centroid.

    SemDeDup, Abbas et al. 2023, section 3 and algorithm A7: k-means; within a cluster, members in
    the order of their distance to the centroid, the farthest first; one is dropped if its cosine to
    any before it exceeds 1 - epsilon. As in the published code those before it count whether they
    were themselves kept or not, so that the number kept is a monotone function of the threshold,
    which is set in each batch so that the target share is kept exactly.

    Departures: the published method works once on a whole data set, with frozen embeddings and one
    threshold; this one on a batch at a time. A near-duplicate in another batch goes unseen, so give
    ``sagittal-cxr curate`` one batch of everything where memory allows.

    Args:
        ratio: Share of pairs to keep, in (0, 1].
        cluster_size: Pairs in a cluster on average (published: 8,800); small batches have one.
        what: Which embedding is compared: image, text, or pair, both side by side.
        seed: Of k-means.

    Raises:
        ConfigError: If an argument is out of range.
    """

    reasons = ("distinct", "near-duplicate")

    def __init__(
        self,
        ratio: float,
        cluster_size: int = 256,
        what: Literal["image", "text", "pair"] = "image",
        seed: int = 0,
    ) -> None:
        super().__init__(ratio, seed)
        if cluster_size < 1 or what not in ("image", "text", "pair"):
            raise ConfigError(
                f"SemDeDupSelector: cluster_size {cluster_size} from 1, what {what!r} of image,"
                " text, pair"
            )
        self.cluster_size, self.what = cluster_size, what

    def scores(self, candidates: Candidates) -> Tensor:
        """Minus the largest cosine to a member that comes before; 2 for the first of a cluster."""
        rows = candidates.texts if self.what == "text" else candidates.images
        if self.what == "pair":
            rows = torch.cat([candidates.images, candidates.texts], 1) / 2.0**0.5
        found = torch.full((len(rows),), 2.0, dtype=torch.float64)
        if len(rows) == 0:
            return found
        clusters = max(1, len(rows) // self.cluster_size)
        centroids = normalize(kmeans(rows, clusters, seed=self.seed), dim=1)
        nearest = squared_distances(rows, centroids).argmin(1)
        for k in range(clusters):
            members = (nearest == k).nonzero()[:, 0]
            found[members] = -self._likeness(rows[members], centroids[k])
        return found

    @staticmethod
    def _likeness(members: Tensor, centroid: Tensor) -> Tensor:
        """(m,) largest cosine of each to the members farther from the centroid; -2: none is."""
        order = torch.argsort(members @ centroid, stable=True)  # the farthest first
        cosines = members[order] @ members[order].T
        earlier = torch.ones_like(cosines, dtype=torch.bool).tril(-1)
        likeness = torch.empty(len(members), dtype=torch.float64)
        likeness[order] = cosines.masked_fill(~earlier, -2.0).amax(1)
        return likeness

"""Who is trained on, validated on and tested on: always whole subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sagittal_core.errors import ConfigError
from sagittal_core.seeds import counter_seed
from sagittal_genai.slices.scans import SPLITS, Scan


@dataclass
class Split:
    """How subjects are divided; a scan whose source names a split keeps it.

    Args:
        test: column and values that are held out, for example ``{institute: [A, D, E]}``.
        test_share: share of the other subjects that are tested on.
        val_share: share of the other subjects that are validated on.
        strata: columns whose values every part should hold alike; ``age`` counts in ``age_bins``.
        age_bins: lower ends of the age groups, in years.
        seed: of the draw.
    """

    test: dict[str, list[str]] = field(default_factory=dict)
    test_share: float = 0.0
    val_share: float = 0.2
    strata: list[str] = field(default_factory=lambda: ["modality", "sex", "age"])
    age_bins: list[float] = field(default_factory=lambda: [40.0, 60.0, 80.0])
    seed: int = 0

    def assign(self, scans: Sequence[Scan]) -> list[Scan]:
        """The scans with their split set.

        Subjects are sorted by stratum and, within it, by a seed that depends on the subject alone;
        every 1/share-th is taken: first val, to within one of its share of each stratum, then test
        from those that are left, to within one of its share of them.

        Raises:
            ConfigError: for shares out of range, a column that no scan has, an unknown split, or a
                subject that would be in two.
        """
        shares = (self.test_share, self.val_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ConfigError(f"slice: split shares must be in 0..1 together, found {shares}")
        for column in self.test:
            if not any(column in scan.metadata for scan in scans):
                raise ConfigError(f"slice: split.test: no scan has a column {column!r}")
        given = [scan.split or self._held_out(scan) for scan in scans]
        fixed = _one_each(scans, given)
        groups: dict[str, Scan] = {}
        for scan in scans:
            if scan.subject not in fixed:
                groups.setdefault(scan.subject, scan)
        drawn = self._draw(groups)
        return [replace(s, split=fixed.get(s.subject) or drawn[s.subject]) for s in scans]

    def _held_out(self, scan: Scan) -> str | None:
        held = any(
            str(scan.metadata.get(column)) in [str(v) for v in values]
            for column, values in self.test.items()
        )
        return "test" if held else None

    def _draw(self, subjects: dict[str, Scan]) -> dict[str, str]:
        def key(subject: str) -> tuple[str, int]:
            return self._stratum(subjects[subject]), counter_seed(self.seed, "split", subject)

        drawn = dict.fromkeys(sorted(subjects, key=key), "train")
        for name, share in (("val", self.val_share), ("test", self.test_share)):
            # A share of those that are left, wherever its multiples pass a whole number.
            left = [subject for subject, split in drawn.items() if split == "train"]
            part = share if name == "val" else share / max(1 - self.val_share, 1e-9)
            start = counter_seed(self.seed, "split", name) / 2**63
            for place, subject in enumerate(left):
                if int((place + 1) * part + start) > int(place * part + start):
                    drawn[subject] = name
        return drawn

    def _stratum(self, scan: Scan) -> str:
        parts = []
        for column in self.strata:
            value = scan.modality if column == "modality" else scan.metadata.get(column)
            if column == "age" and isinstance(value, (int, float)):
                value = sum(value >= low for low in self.age_bins)
            parts.append(str(value))
        return "|".join(parts)


def _one_each(scans: Sequence[Scan], given: Sequence[str | None]) -> dict[str, str]:
    """Subject to given split; a subject with one is in it with all its scans."""
    fixed: dict[str, str] = {}
    for scan, split in zip(scans, given, strict=True):
        if split is None:
            continue
        if split not in SPLITS:
            raise ConfigError(
                f"slice: {scan.name}: split must be one of {', '.join(SPLITS)}, found {split!r}"
            )
        if fixed.setdefault(scan.subject, split) != split:
            raise ConfigError(
                f"slice: a subject would be in {fixed[scan.subject]} and in {split} (one of its"
                f" scans: {scan.input.path}); give all scans of a subject one split"
            )
    for scan, split in zip(scans, given, strict=True):
        if split is None and scan.subject in fixed:
            raise ConfigError(
                f"slice: a subject has scans inside and outside {fixed[scan.subject]} (one outside:"
                f" {scan.input.path}); give all scans of a subject one split"
            )
    return fixed

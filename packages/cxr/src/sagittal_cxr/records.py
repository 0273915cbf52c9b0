"""One radiograph with what its data set says of it: the record that every reader yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1


@dataclass(frozen=True)
class Box:
    """A finding's place in pixels of the stored image, from its top left corner.

    Attributes:
        finding: Name, as the data set writes it.
        x: Left edge.
        y: Upper edge.
        width: Greater than 0.
        height: Greater than 0.
        reader: Who drew it, where several did.
    """

    finding: str
    x: float
    y: float
    width: float
    height: float
    reader: str | None = None


@dataclass(frozen=True)
class Record:
    """One radiograph.

    Attributes:
        image: Path of the picture or DICOM file relative to the data set's root, with ``/``.
        patient: Identifier within the data set; the independent unit of splits and intervals.
        study: Identifier of the examination within the data set.
        view: PA, AP, LATERAL, ... in capitals; None: not known.
        findings: That section of the report; None: there is none.
        impression: As ``findings``.
        labels: Finding to 1 present, 0 absent, -1 uncertain; a finding that is missing was not
            judged, which is not the same as absent.
        boxes: Where findings are.
        mask: Run-length code of a segmentation as the data set writes it; None: none.
        split: The data set's own train, val or test; None: it has none.
        sex: M or F.
        age: In years.
    """

    image: str
    patient: str
    study: str
    view: str | None = None
    findings: str | None = None
    impression: str | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
    boxes: tuple[Box, ...] = ()
    mask: str | None = None
    split: str | None = None
    sex: str | None = None
    age: float | None = None

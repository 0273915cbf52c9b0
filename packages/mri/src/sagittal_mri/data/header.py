"""The ISMRMRD XML header, of which fastMRI files hold a copy (Inati et al., MRM 77:411, 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from sagittal_core.errors import DataError

_MAX_BYTES = 16 * 2**20
_MAX_MATRIX = 2**16 - 1  # matrix sizes are unsigned shorts in the header's schema


@dataclass(frozen=True)
class Space:
    """Matrix size (pixels) and field of view (mm) along x (readout), y (phase) and z."""

    matrix: tuple[int, int, int]
    fov_mm: tuple[float, float, float]


@dataclass(frozen=True)
class EncodingHeader:
    """What the readers use of one ``<encoding>`` of the header.

    Attributes:
        encoded: the space that was encoded, with readout and phase oversampling.
        recon: the space of the reconstructed image.
        trajectory: ``cartesian``, ``radial``, ``goldenangle``, ``spiral``, ``epi`` or ``other``.
        phase_center: index of the phase-encoding step at zero frequency, or None if not given.
        phase_maximum: largest phase-encoding step, or None if not given.
        slice_encoding_maximum: largest step of the second phase encoding; above 0 in 3-D.
        calibration: ``embedded``, ``separate``, ``other``, ... or None.
        trajectory_units: the string parameter ``trajectory_units`` of the trajectory description.
        receiver_bandwidth_ratio: relativeReceiverNoiseBandwidth, or None.
    """

    encoded: Space
    recon: Space
    trajectory: str
    phase_center: int | None
    phase_maximum: int | None
    slice_encoding_maximum: int
    calibration: str | None
    trajectory_units: str | None
    receiver_bandwidth_ratio: float | None

    def padding(self) -> tuple[int, int] | None:
        """First and one-past-last phase column that was encoded; the rest is zero padding."""
        if self.phase_center is None or self.phase_maximum is None:
            return None
        left = self.encoded.matrix[1] // 2 - self.phase_center
        return left, left + self.phase_maximum + 1

    def grid_crop(self, size: int, axis: int) -> int:
        """How many of ``size`` image pixels along x (0) or y (1) the reconstructed view covers."""
        encoded, recon = self.encoded, self.recon
        if min(encoded.fov_mm[axis], recon.fov_mm[axis]) > 0:
            ratio = recon.fov_mm[axis] / encoded.fov_mm[axis]
        else:
            ratio = recon.matrix[axis] / encoded.matrix[axis]
        return min(size, max(1, round(size * ratio)))

    def pixel_mm(self, size: int, axis: int) -> float | None:
        """Width of one of ``size`` pixels across the encoded field of view, None if not given."""
        return self.encoded.fov_mm[axis] / size if self.encoded.fov_mm[axis] > 0 else None

    def voxel_size_mm(self, rows: int, columns: int) -> tuple[float, float, float] | None:
        """Voxel of a ``rows`` x ``columns`` encoded grid; the third is the slice thickness."""
        height, width = self.pixel_mm(rows, 0), self.pixel_mm(columns, 1)
        depth = self.recon.fov_mm[2] or self.encoded.fov_mm[2]
        return (height, width, depth) if height and width and depth > 0 else None


class _Reader:
    """Looks elements up by their local names, whatever the namespace."""

    def __init__(self, text: str, key: str, path: Path) -> None:
        self.key, self.path = key, path
        if len(text) > _MAX_BYTES or "<!ENTITY" in text:
            # Entity expansion is how a small XML file exhausts the memory.
            raise self.error("a plain ISMRMRD header", "entity definitions or more than 16 MB")
        try:
            self.root = ElementTree.fromstring(text.strip())
        except ElementTree.ParseError as error:
            raise self.error("an XML header", f"text that is no XML ({error})") from error

    def error(self, expected: str, found: str) -> DataError:
        return DataError(self.path, key=self.key, expected=expected, found=found)

    def find(self, node: ElementTree.Element, *names: str) -> ElementTree.Element | None:
        found: ElementTree.Element | None = node
        for name in names:
            found = None if found is None else found.find(f"{{*}}{name}")
        return found

    def number(self, node: ElementTree.Element, *names: str) -> float | None:
        found = self.find(node, *names)
        if found is None:
            return None
        try:
            value = float(found.text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"a number in {'/'.join(names)}", repr(found.text or ""))
        return value

    def space(self, node: ElementTree.Element, name: str) -> Space:
        matrix = [self.number(node, name, "matrixSize", axis) or 0 for axis in "xyz"]
        fov = [self.number(node, name, "fieldOfView_mm", axis) for axis in "xyz"]
        if not all(1 <= size <= _MAX_MATRIX for size in matrix[:2]):
            raise self.error(f"{name}/matrixSize with x and y in 1..{_MAX_MATRIX}", str(matrix[:2]))
        return Space(
            (int(matrix[0]), int(matrix[1]), int(matrix[2] or 1)),
            (fov[0] or 0.0, fov[1] or 0.0, fov[2] or 0.0),
        )


def parse_header(text: str, *, key: str, path: Path, encoding: int = 0) -> EncodingHeader:
    """Read encoding number ``encoding`` of an ISMRMRD XML header.

    Raises:
        DataError: on text that is no XML, a missing encoding, a missing or impossible matrix size,
            and numbers that are none, NaN or infinite.
    """
    reader = _Reader(text, key, path)
    encodings = reader.root.findall("{*}encoding")
    if encoding >= len(encodings):
        raise reader.error(f"at least {encoding + 1} <encoding>", f"{len(encodings)} of them")
    node = encodings[encoding]
    limit = ("encodingLimits", "kspace_encoding_step_1")
    center, maximum = (reader.number(node, *limit, name) for name in ("center", "maximum"))
    trajectory = reader.find(node, "trajectory")
    calibration = reader.find(node, "parallelImaging", "calibrationMode")
    return EncodingHeader(
        encoded=reader.space(node, "encodedSpace"),
        recon=reader.space(node, "reconSpace"),
        trajectory=((trajectory.text if trajectory is not None else None) or "cartesian").strip(),
        phase_center=None if center is None else int(center),
        phase_maximum=None if maximum is None else int(maximum),
        slice_encoding_maximum=int(
            reader.number(node, "encodingLimits", "kspace_encoding_step_2", "maximum") or 0
        ),
        calibration=None if calibration is None else (calibration.text or "").strip(),
        trajectory_units=_trajectory_units(reader, node),
        receiver_bandwidth_ratio=reader.number(
            reader.root, "acquisitionSystemInformation", "relativeReceiverNoiseBandwidth"
        ),
    )


def _trajectory_units(reader: _Reader, node: ElementTree.Element) -> str | None:
    description = reader.find(node, "trajectoryDescription")
    for parameter in [] if description is None else description.findall("{*}userParameterString"):
        name, value = reader.find(parameter, "name"), reader.find(parameter, "value")
        if name is not None and value is not None and name.text == "trajectory_units":
            return (value.text or "").strip()
    return None


_SPACE = (
    "<{0}><matrixSize><x>{1[0]}</x><y>{1[1]}</y><z>{1[2]}</z></matrixSize>"
    "<fieldOfView_mm><x>{2[0]!r}</x><y>{2[1]!r}</y><z>{2[2]!r}</z></fieldOfView_mm></{0}>"
)


def build_header(encoded: Space, recon: Space, trajectory: str) -> str:
    """A minimal ISMRMRD header whose phase encoding covers the whole encoded matrix."""
    lines = encoded.matrix[1]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>'
        + _SPACE.format("encodedSpace", encoded.matrix, encoded.fov_mm)
        + _SPACE.format("reconSpace", recon.matrix, recon.fov_mm)
        + "<encodingLimits><kspace_encoding_step_1><minimum>0</minimum>"
        + f"<maximum>{lines - 1}</maximum><center>{lines // 2}</center>"
        + f"</kspace_encoding_step_1></encodingLimits><trajectory>{trajectory}</trajectory>"
        + "</encoding></ismrmrdHeader>"
    )

"""Indiana University's collection, Open-i (Demner-Fushman et al., 2016): reports as XML."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from sagittal_core.errors import DataError
from sagittal_cxr.readers.reader import Refused
from sagittal_cxr.readers.tables import clean_text, note_file, read_table, view_name
from sagittal_cxr.records import Record

_IMAGE = re.compile(r"(?:CXR)?(\d+)_(?:\d+_)?(IM-.+?)(?:\.dcm)?(?:\.png)?")
_NO_FINDING = {"no indexing", "technical quality of image unsatisfactory"}


class OpenI:
    """Reports in ``ecgen-radiology/*.xml`` (or their archive NLMCXR_reports.tgz), pictures as PNG.

    One report is one examination of one patient, with none to several pictures. Labels are the
    headings that two annotators gave (MeSH "major"), their first part; nothing counts as absent,
    for headings name what is there. De-identified words are ``XXXX`` in the text.

    Args:
        folder: of the pictures, relative to the root.
        suffix: of the pictures.
        views: table of projections, relative to the root: indiana_projections.csv, or
            torchxrayvision's nlmcxr_dicom_metadata.csv.gz; None: not known.
    """

    has_reports = True

    def __init__(
        self, folder: str = "NLMCXR_png", suffix: str = ".png", views: str | None = None
    ) -> None:
        self.folder, self.suffix, self.views = folder, suffix, views

    def read(self, root: Path) -> Iterator[Record | Refused]:
        """Every picture, by the number of its report.

        Raises:
            DataError: if there are no reports, or the table of views is damaged.
        """
        views = {} if self.views is None else _views(root / self.views)
        for name, text in _files(root):
            try:
                report = ElementTree.fromstring(text)
            except ElementTree.ParseError as error:
                yield Refused(name, f"unreadable report: {error}")
                continue
            images = [str(e.get("id", "")) for e in report.iter("parentImage")]
            if not images:
                yield Refused(name, "report without a picture: no parentImage")
            sections = {
                str(e.get("Label", "")).upper(): clean_text("".join(e.itertext()))
                for e in report.iter("AbstractText")
            }
            number = name.rpartition("/")[2].removesuffix(".xml")
            for image in images:
                yield Record(
                    image=f"{self.folder}/{image}{self.suffix}".lstrip("/"),
                    patient=number,
                    study=number,
                    view=views.get(_key(image)),
                    findings=sections.get("FINDINGS"),
                    impression=sections.get("IMPRESSION"),
                    labels=_labels(report),
                )


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Name and text of every report, by number."""
    archive, folder = root / "NLMCXR_reports.tgz", root / "ecgen-radiology"
    note_file(folder if folder.is_dir() else archive)
    if folder.is_dir():
        files = sorted(folder.glob("*.xml"), key=lambda f: _order(f.name))
        for file in files:
            yield f"ecgen-radiology/{file.name}", file.read_bytes()
        if files:
            return
    elif archive.is_file():
        with tarfile.open(archive) as opened:
            found = {m.name: opened.extractfile(m) for m in opened if m.name.endswith(".xml")}
            texts = {name: file.read() for name, file in found.items() if file is not None}
        yield from sorted(texts.items(), key=lambda pair: _order(pair[0].rpartition("/")[2]))
        if texts:
            return
    raise DataError(
        root,
        key="reports",
        expected="ecgen-radiology/*.xml or NLMCXR_reports.tgz",
        found="neither, or nothing in it",
    )


def _order(name: str) -> tuple[int, str]:
    digits = name.removesuffix(".xml")
    return (int(digits) if digits.isdigit() else 0, name)


def _labels(report: ElementTree.Element) -> dict[str, int]:
    heads = [clean_text("".join(e.itertext()).partition("/")[0]) for e in report.iter("major")]
    labels: dict[str, int] = {}
    for head in heads:
        if head is not None and head.lower() not in _NO_FINDING:
            labels[head] = 1
    return labels


def _key(name: str) -> tuple[str, str]:
    """Number of the report and of the picture, which three spellings of a name have in common."""
    found = _IMAGE.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def _views(file: Path) -> dict[tuple[str, str], str | None]:
    import pandas

    try:
        names = list(pandas.read_csv(file, nrows=0).columns)
    except (OSError, ValueError) as error:
        raise DataError(
            file, key="views", expected="a table of projections", found=repr(error)[:200]
        ) from error
    image, view = (
        ("filename", "projection") if "projection" in names else ("imageid", "View Position")
    )
    table = read_table(file, [image, view])
    return {_key(n): view_name(v) for n, v in zip(table[image], table[view], strict=True)}

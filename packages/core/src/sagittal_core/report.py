"""One self-contained HTML page: pictures first, then tables, then the configuration.

Pictures are embedded as PNG; nothing is loaded from elsewhere, and no script runs.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sagittal_core.run_folder import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5f6873; --paper: #fbfbf9;
  --line: #dcdedf; --card: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e8; --soft: #9aa3ad; --paper: #15181b;
  --line: #30353a; --card: #1c2024; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 64rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.75rem; font-weight: 650; line-height: 1.2; letter-spacing: -0.015em;
  text-wrap: balance; margin: 0 0 1.5rem; }
p { max-width: 44rem; }
figure { margin: 2rem 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 0.6rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto;
  border-radius: 0.3rem; }
figcaption, caption { color: var(--soft); font-size: 0.9rem; text-align: left; }
figcaption { margin-top: 0.75rem; }
caption { padding-bottom: 0.5rem; }
b { color: var(--ink); font-weight: 600; }
.scroll { overflow-x: auto; margin: 2rem 0; }
table { border-collapse: collapse; min-width: 60%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 1.25rem 0.4rem 0; text-align: left; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 1.5px solid var(--soft); font-size: 0.85rem; font-weight: 600;
  vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; }
details { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""

_NUMBER = re.compile(
    r"[-+\u2212]?[\d.,]+(e[-+]?\d+)?\s*(%|\[.*\]|±.*|\(.*\)|%? to [-+\u2212]?[\d.,]+\s*%?)?"
)


def cell_text(value: Any) -> str:
    """Return a table cell's text; floats get four significant digits."""
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def numeric_columns(rows: Sequence[Sequence[str]], count: int) -> list[bool]:
    """Return which of ``count`` columns hold nothing but numbers or gaps, to align them right."""
    return [bool(rows) and all(_NUMBER.fullmatch(r[i] or "0") for r in rows) for i in range(count)]


class Report:
    """Collects the parts of a page; :meth:`write` puts them in order.

    Args:
        title: Heading of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._texts: list[str] = []
        self._pictures: list[str] = []
        self._tables: list[str] = []
        self._configs: list[str] = []

    def text(self, paragraph: str) -> Report:
        """Add a plain paragraph under the title; nothing in it is interpreted."""
        self._texts.append(f"<p>{escape(paragraph)}</p>")
        return self

    def picture(
        self, name: str, image: NDArray[Any] | Image.Image | Figure, caption: str = ""
    ) -> Report:
        """Add a picture.

        Args:
            name: Short title, also the alternative text.
            image: A Pillow image, a matplotlib figure, or an array ``(H, W)`` or ``(H, W, 3)``:
                uint8 as it is, floating point in [0, 1] (values outside are clipped).
            caption: What the reader sees.

        Raises:
            ValueError: If an array has another shape or type, or holds NaN.
        """
        data = base64.b64encode(_png(image)).decode()
        self._pictures.append(
            f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
            f"<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption></figure>"
        )
        return self

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        caption: str = "",
    ) -> Report:
        """Add a table; columns that hold only numbers are aligned right.

        Args:
            name: Short title.
            columns: Column headings.
            rows: Cells; floats are shown with four significant digits.
            caption: What the figures are, and over how many units.

        Raises:
            ValueError: If a row has another length than ``columns``.
        """
        cells = [[cell_text(value) for value in row] for row in rows]
        if any(len(row) != len(columns) for row in cells):
            raise ValueError(f"table {name!r}: every row needs {len(columns)} cells")
        right = numeric_columns(cells, len(columns))
        classes = [' class="number"' if one else "" for one in right]
        head = "".join(
            f'<th scope="col"{c}>{escape(t)}</th>' for c, t in zip(classes, columns, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(f"<td{c}>{escape(t)}</td>" for c, t in zip(classes, row, strict=True))
            + "</tr>"
            for row in cells
        )
        self._tables.append(
            f'<div class="scroll"><table><caption><b>{escape(name)}</b> {escape(caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
        return self

    def config(self, config: Mapping[str, Any]) -> Report:
        """Add a configuration (plain types), folded away."""
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self._configs.append(
            f"<details><summary>Configuration</summary><pre>{escape(text)}</pre></details>"
        )
        return self

    def write(self, path: str | Path) -> Path:
        """Write the page, in one step, and return its path."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = [*self._texts, *self._pictures, *self._tables, *self._configs]
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{_STYLE}</style></head>\n"
            f"<body><h1>{escape(self.title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
        )
        write_atomically(file, page)
        return file


def mosaic(
    images: Sequence[Sequence[NDArray[Any]]],
    titles: Sequence[str] = (),
    *,
    row_titles: Sequence[str] = (),
    window: tuple[float, float] | None = None,
    tile: int = 224,
    gap: int = 6,
) -> Image.Image:
    """Lay grey images out in rows and columns, with titles.

    Args:
        images: Rows of ``(H, W)`` real arrays, all of one shape.
        titles: Column titles, or none.
        row_titles: Row titles, or none.
        window: Values shown black and white, the same for all tiles; None: the range of all values.
        tile: Width of a tile in pixels; heights keep the aspect ratio.
        gap: Pixels between tiles.

    Returns:
        An RGB image on black.

    Raises:
        ValueError: If shapes differ, the number of titles does not fit, values are not finite, or
            the window is empty.
    """
    columns = _check_mosaic(images, titles, row_titles)
    low, high = window or (
        float(min(np.min(i) for row in images for i in row)),
        float(max(np.max(i) for row in images for i in row)),
    )
    if window is not None and not low < high:
        raise ValueError(f"window must be increasing, got {window}")
    height, width = images[0][0].shape
    tile_height = max(1, round(tile * height / width))
    font = ImageFont.load_default(size=15)
    left, top = (28 if row_titles else 0), (28 if titles else 0)
    page = Image.new(
        "RGB",
        (
            left + columns * (tile + gap) - gap,
            top + len(images) * (tile_height + gap) - gap,
        ),
    )
    draw = ImageDraw.Draw(page)
    for c, title in enumerate(titles):
        middle = left + c * (tile + gap) + tile // 2
        draw.text((middle, top // 2), title, fill="white", font=font, anchor="mm")
    for r, row in enumerate(images):
        y = top + r * (tile_height + gap)
        if row_titles:
            page.paste(_sideways(row_titles[r], tile_height, left, font), (0, y))
        for c, image in enumerate(row):
            grey = np.clip((image - low) / max(high - low, 1e-30), 0.0, 1.0)
            picture = Image.fromarray((grey * 255).round().astype(np.uint8))
            resized = picture.resize((tile, tile_height), Image.Resampling.BICUBIC)
            page.paste(resized, (left + c * (tile + gap), y))
    return page


def _check_mosaic(
    images: Sequence[Sequence[NDArray[Any]]], titles: Sequence[str], row_titles: Sequence[str]
) -> int:
    if not images or not images[0]:
        raise ValueError("a mosaic needs at least one image")
    columns = len(images[0])
    shape = images[0][0].shape
    for row in images:
        if len(row) != columns or any(i.shape != shape or i.ndim != 2 for i in row):
            raise ValueError(f"every row needs {columns} images of the 2-D shape {shape}")
        if not all(np.isfinite(i).all() for i in row):
            raise ValueError("images must be finite")
    if titles and len(titles) != columns:
        raise ValueError(f"{len(titles)} titles for {columns} columns")
    if row_titles and len(row_titles) != len(images):
        raise ValueError(f"{len(row_titles)} row titles for {len(images)} rows")
    return columns


def _sideways(
    text: str, length: int, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> Image.Image:
    strip = Image.new("RGB", (length, width))
    ImageDraw.Draw(strip).text((length // 2, width // 2), text, "white", font, anchor="mm")
    return strip.rotate(90, expand=True)


def _png(image: NDArray[Any] | Image.Image | Figure) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, Image.Image):
        image.save(buffer, "PNG")
    elif isinstance(image, np.ndarray):
        _from_array(image).save(buffer, "PNG")
    else:
        image.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return buffer.getvalue()


def _from_array(image: NDArray[Any]) -> Image.Image:
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise ValueError(f"a picture is (H, W) or (H, W, 3), got {image.shape}")
    if np.issubdtype(image.dtype, np.floating):
        if np.isnan(image).any():
            raise ValueError("a picture must not hold NaN")
        image = (np.clip(image, 0.0, 1.0) * 255).round().astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 or floating point, got {image.dtype}")
    return Image.fromarray(image)

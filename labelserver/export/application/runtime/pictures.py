"""Pages that show an answer: who, which model, the volumes, and for each label the slice that shows most of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from labelserver.export.application.runtime.answers import Answer, Measured

_PAGE = (1240, 1754)  #: pixels of A4 at 150 dpi
_DPI = 150.0
_MARGIN = 90
_LINE = 36
_PICTURE = 500  #: pixels of the longer side of a slice
_SHARES = (1.0, 99.0)  #: percentiles of the slice that become black and white
_WINDOW_HU = (-160.0, 240.0)  #: soft tissue, for CT


def pdf_of(answer: Answer) -> bytes:
    """A PDF with a first page of text and four labels with pictures on each further page."""
    shown = [m for m in answer.measured if m.voxels]
    pages = [_text_page(answer, part) for part in _parts(answer.measured, 34)]
    pages += [_picture_page(answer, part) for part in _parts(shown, 4)]
    stream = io.BytesIO()
    pages[0].save(stream, "PDF", save_all=True, append_images=pages[1:], resolution=_DPI)
    return stream.getvalue()


def slice_with(answer: Answer, found: Measured) -> tuple[int, NDArray[np.uint8]]:
    """The K with most of a label, and that slice as (rows, columns, 3) with the label's outline in its colour."""
    mask = answer.labels == found.label.value
    k = int(mask.sum(axis=(0, 1)).argmax())
    grey = _grey(answer, answer.volume.voxels[:, :, k].T.astype(np.float64))
    picture = np.repeat(grey[:, :, None], 3, axis=2)
    picture[_outline(mask[:, :, k].T)] = found.label.color
    return k, picture


def _parts(items: Sequence[Measured], size: int) -> list[Sequence[Measured]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _text_page(answer: Answer, part: Sequence[Measured]) -> Image.Image:
    source, about = answer.source, answer.about
    lines = [
        f"{about.model}: volumes",
        "",
        f"Patient: {source.get('PatientName', '')}   ID: {source.get('PatientID', '')}",
        f"Study: {source.get('StudyDate', '')} {source.get('StudyDescription', '')}",
        f"Series: {source.get('SeriesNumber', '')} {source.get('SeriesDescription', '')}",
        f"Model: {about.app}/{about.model}, version {about.version}, {answer.made:%Y-%m-%d %H:%M}",
        "Made by an algorithm; no person has verified it.",
        "",
        *(f"{m.label.name}: " + (f"{m.volume_ml:.1f} ml" if m.voxels else "not found") for m in part),
    ]
    return _page(lines)


def _picture_page(answer: Answer, part: Sequence[Measured]) -> Image.Image:
    page = _page([f"{answer.about.model}: pictures"])
    for number, found in enumerate(part):
        k, pixels = slice_with(answer, found)
        left = _MARGIN + (number % 2) * (_PICTURE + 60)
        top = _MARGIN + 2 * _LINE + (number // 2) * (_PICTURE + 3 * _LINE)
        page.paste(_scaled(answer, pixels), (left, top))
        text = f"{found.label.name}: {found.volume_ml:.1f} ml, slice {k + 1}"
        ImageDraw.Draw(page).text((left, top + _PICTURE + 8), _drawable(text)[:60], fill="black", font=_font())
    return page


def _page(lines: Sequence[str]) -> Image.Image:
    page = Image.new("RGB", _PAGE, "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + number * _LINE), _drawable(line)[:100], fill="black", font=_font())
    return page


def _font() -> Any:
    return ImageFont.load_default(size=24)


def _drawable(text: str) -> str:
    """Control characters would break lines; others that the font lacks are drawn as boxes."""
    return "".join(c if c.isprintable() else " " for c in text)


def _scaled(answer: Answer, pixels: NDArray[np.uint8]) -> Image.Image:
    """The slice with square pixels, fitted into the picture's square."""
    column_mm, row_mm, _ = answer.volume.grid.spacing_mm
    height_mm, width_mm = pixels.shape[0] * row_mm, pixels.shape[1] * column_mm
    factor = _PICTURE / max(height_mm, width_mm)
    size = (max(1, round(width_mm * factor)), max(1, round(height_mm * factor)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def _grey(answer: Answer, plane: NDArray[np.float64]) -> NDArray[np.uint8]:
    low, high = _WINDOW_HU if answer.source.get("Modality") == "CT" else np.percentile(plane, _SHARES)
    if high <= low:
        low, high = float(plane.min()), float(plane.max()) + 1.0
    return (np.clip((plane - low) / (high - low), 0.0, 1.0) * 255).astype(np.uint8)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask with a neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inner
    return outline

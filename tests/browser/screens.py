"""What a pane shows, as numbers."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

Pixels = NDArray[np.uint8]  #: (rows, columns, 3)


def pixels_of(page: Page, plane: str) -> Pixels:
    """The picture of a plane."""
    shot = page.locator(f"section[data-plane='{plane}'] canvas").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


def colours_of(page: Page, x: float, y: float) -> NDArray[np.float64]:
    """Mean red, green, blue of the 3 x 3 pixels round a place of the screen."""
    shot = page.screenshot(clip={"x": x - 1, "y": y - 1, "width": 3, "height": 3})
    found: NDArray[np.float64] = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).reshape(-1, 3).mean(axis=0)
    return found

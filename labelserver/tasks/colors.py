"""A colour for every label name, the same in every process and after every restart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Rgb: TypeAlias = tuple[int, int, int]

#: lower-case name -> RGB, for structures that most projects have; near the tissue's usual colour in atlases
ANATOMY_COLORS: dict[str, Rgb] = {
    "aorta": (224, 97, 76),
    "background": (0, 0, 0),
    "bladder": (222, 154, 132),
    "bone": (241, 214, 145),
    "brain": (250, 250, 225),
    "colon": (204, 168, 143),
    "esophagus": (211, 171, 143),
    "gallbladder": (139, 150, 98),
    "heart": (206, 110, 84),
    "inferior vena cava": (0, 151, 206),
    "kidney": (185, 102, 83),
    "left kidney": (185, 102, 83),
    "liver": (221, 130, 101),
    "lung": (197, 165, 145),
    "pancreas": (249, 180, 111),
    "portal vein": (0, 112, 165),
    "prostate": (230, 158, 140),
    "right kidney": (196, 121, 79),
    "skin": (177, 122, 101),
    "spleen": (157, 108, 162),
    "stomach": (216, 132, 105),
    "tumor": (144, 238, 144),
}


def get_color(label: str, color_map: Mapping[str, Any] | None = None) -> Rgb:
    """RGB of a label: from `color_map` (exact or lower-case name), the anatomy table, else made from the name."""
    for table in (color_map or {}, ANATOMY_COLORS):
        for name in (label, label.lower(), label.lower().replace("_", " ")):
            if name in table:
                return to_rgb(table[name])
    digest = hashlib.sha256(label.encode()).digest()
    red, green, blue = (64 + digest[i] % 192 for i in range(3))
    return (red, green, blue)


def to_rgb(color: str | Sequence[int | float]) -> Rgb:
    """From ``#rrggbb`` or three numbers 0 to 255."""
    if isinstance(color, str):
        text = color.lstrip("#")
        return (int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16))
    red, green, blue = (int(part) for part in list(color)[:3])
    return (red, green, blue)


def to_hex(color: str | Sequence[int | float]) -> str:
    """``#rrggbb``."""
    if isinstance(color, str):
        return color if color.startswith("#") else f"#{color}"
    return "#{:02x}{:02x}{:02x}".format(*to_rgb(color))

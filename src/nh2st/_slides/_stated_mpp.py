"""Micrometres per pixel, as files state them."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from nh2st._settings import logger

UM_PER_INCH = 25_400.0
_PLAUSIBLE = (0.05, 20.0)
"""Of slides: outside of it, a resolution is that of a screen or a printer."""

_UM_PER_UNIT = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_ANISOTROPIC = 1.01


def mpp_of_resolution(resolution: tuple[float, float], um_per_unit: float = UM_PER_INCH) -> float | None:
    """From pixels per inch, or per another unit, along x and y."""
    return _mean_mpp(*(um_per_unit / value if value > 0 else math.nan for value in map(float, resolution)))


def mpp_of_aperio(description: str) -> float | None:
    """From the description in an SVS file, such as ``... |AppMag = 20|MPP = 0.4990|...``."""
    found = re.search(r"\bMPP\s*=\s*([0-9.]+(?:[eE][-+]?[0-9]+)?)", description)
    return _mean_mpp(*[float(found[1])] * 2) if found else None


def mpp_of_ome(xml: str, shape: tuple[int, int]) -> float | None:
    """From the pixels of this height and width in OME-XML."""
    for pixels in ElementTree.fromstring(xml).iterfind(".//{*}Pixels"):
        if (pixels.get("SizeY"), pixels.get("SizeX")) == tuple(map(str, shape)):
            return _mean_mpp(*(_ome_length(pixels, axis) for axis in "XY"))
    return None


def _ome_length(pixels: ElementTree.Element, axis: str) -> float:
    unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), math.nan)
    return float(pixels.get(f"PhysicalSize{axis}", "nan")) * unit


def _mean_mpp(x: float, y: float) -> float | None:
    """Mean of the micrometres along both axes, where they are plausible."""
    if not all(_PLAUSIBLE[0] <= value <= _PLAUSIBLE[1] for value in (x, y)):
        return None
    if max(x, y) > _ANISOTROPIC * min(x, y):
        logger.warning("The image is not isotropic: %.4g and %.4g um per pixel; the geometric mean is used.", x, y)
    return math.sqrt(x * y)

"""The scale of an image, from the known distances of the spots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from nh2st._docs import documented
from nh2st._keys import VISIUM_PITCH_UM
from nh2st._results import check_scale, write_scale
from nh2st._sections import ImageData, ImageKey, Section, Selection, find_sections
from nh2st._settings import logger
from nh2st._space import array_mpp

_SAME = 1.02


@documented
def estimate_mpp(
    data: ImageData,
    pitch_um: float | None = None,
    *,
    overwrite: bool = False,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
    image_key: ImageKey = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> None:
    """Find the micrometres per pixel of each image from the array of its spots.

    Least-squares fit of ``obs["array_row"]`` and ``obs["array_col"]`` to the spot centres in pixels where they are
    there, else the typical distance of adjacent spots.

    Parameters
    ----------
    data
        SpatialData, or a list or dictionary of them.
    pitch_um
        Distance in micrometres: of adjacent rows or columns of the array on square arrays and checkerboards, and of
        adjacent spots, centre to centre, on hexagonal arrays and where there are no array ids. Where absent, 100 on
        hexagonal arrays, as on Visium slides.
    overwrite
        Replace scales that were given and differ from the estimate.
    %(selection)s

    Returns
    -------
    ``None``. Written into each SpatialData: ``attrs["nh2st"]["mpp"]``, a dictionary from image to micrometres per pixel
    of the largest scale. Earlier estimates, which ``attrs["nh2st"]["estimated_mpp"]`` names, are replaced.

    Raises
    ------
    ValueError
        If `pitch_um` is not positive or is needed, there are fewer than two spots, sections disagree on the scale of
        their common image, or a scale that was given would be replaced by another.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.her2st(["B4"])  # doctest: +SKIP
    >>> nh.pp.estimate_mpp(sdata, pitch_um=200)  # doctest: +SKIP
    """
    if pitch_um is not None and not 0 < pitch_um < np.inf:
        msg = f"`pitch_um` must be a positive number of micrometres, not {pitch_um!r}."
        raise ValueError(msg)
    found = find_sections(data, Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system))
    estimates = defaultdict(list)
    objects = {id(section.sdata): section.sdata for section in found}
    for section in found:
        estimates[id(section.sdata), section.image_key].append((section.name, _section_mpp(section, pitch_um)))
    agreed = [(objects[place[0]], place[1], _agree(place[1], values)) for place, values in estimates.items()]
    for sdata, image, mpp in agreed:
        check_scale(sdata, image, mpp, overwrite=overwrite)
    for sdata, image, mpp in agreed:
        write_scale(sdata, image, mpp)
        logger.info("Image %r: %.4f um per pixel.", image, mpp)


def _section_mpp(section: Section, pitch_um: float | None) -> float:
    if pitch_um is None:
        if section.pixel_grid.kind != "hexagonal":
            msg = (
                f"Section {section.name!r} is not on a hexagonal (Visium) array, so the distance of its spots is not "
                "known. Give it in micrometres, for example `pitch_um=200`."
            )
            raise ValueError(msg)
        pitch_um = VISIUM_PITCH_UM
    try:
        return array_mpp(section.pixel_grid, pitch_um)
    except ValueError as error:
        msg = f"Section {section.name!r}: {error}"
        raise ValueError(msg) from error


def _agree(image: str, estimates: list[tuple[str, float]]) -> float:
    values = [value for _, value in estimates]
    if max(values) > _SAME * min(values):
        each = ", ".join(f"{name!r} {value:.3f}" for name, value in estimates)
        msg = f"The sections on image {image!r} disagree on its um per pixel: {each}. Restrict them with `sections=`."
        raise ValueError(msg)
    return float(np.mean(values))

"""Prediction of one slide from the command line: open, predict, write."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nh2st as nh
from nh2st._keys import MPP, NAMESPACE, PREDICTION
from nh2st._slides import check_target, read_slide, write_store

if TYPE_CHECKING:
    from spatialdata import SpatialData


def run(slide: Path, model: str, out: Path, *, with_image: bool, overwrite: bool, **settings: Any) -> None:
    """Predict with the settings of :func:`nh2st.tl.predict`, and write the result into a store of its own.

    Without its image, the result holds the spots or tiles, and the tables.
    """
    check = partial(check_target, out, slide, overwrite=overwrite)
    check()
    loaded = nh.models.load(model)
    sdata = read_slide(slide)
    nh.tl.predict(sdata, loaded, **settings)
    _keep_scale(sdata, settings["mpp"], settings["image_key"])
    write_store(sdata if with_image else _without_images(sdata), out, check)
    for name, table in sdata.tables.items():
        if PREDICTION in table.layers:
            click.echo(f"{out}: {len(loaded.genes)} genes predicted for {table.n_obs} spots of table {name!r}.")


def _keep_scale(sdata: SpatialData, mpp: float | str | None, image_key: str | None) -> None:
    """Store the scale that was given, so that figures and further predictions know it."""
    if isinstance(mpp, float):
        images = list(sdata.images) if image_key is None else [image_key]
        sdata.attrs.setdefault(NAMESPACE, {}).setdefault(MPP, {}).update(dict.fromkeys(images, mpp))


def _without_images(sdata: SpatialData) -> SpatialData:
    from spatialdata import SpatialData

    kept = {kind: dict(getattr(sdata, kind)) for kind in ("shapes", "points", "tables")}
    return SpatialData(**kept, attrs=sdata.attrs)

"""Tiles in place of spots, for slides that have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from anndata import AnnData
from spatialdata import SpatialData

from nh2st._keys import TILES_TABLE
from nh2st._results import places_of
from nh2st._sections import ImageData, ImageKey, Mpp, objects_of
from nh2st._settings import logger
from nh2st._tissue import laid_tiles, lay_tiles, with_genes
from nh2st.models import Model


@contextmanager
def tiles_where_no_spots(
    data: ImageData,
    model: Model,
    key: str,
    *,
    table_key: str | None,
    image_key: ImageKey,
    tile_um: float | None,
    mpp: Mpp,
    overwrite: bool,
) -> Iterator[None]:
    """Lay tiles on objects without a table, with the model's panel; objects are left as they were if the body fails.

    Tiles that are there already are kept. They get the panel, unless their genes have something else than
    predictions of the name `key`. Beside another table they are used where `table_key` says so.
    """
    objects = [sdata for _, sdata in objects_of(data, images=True) if _takes_tiles(sdata, table_key)]
    before = [_elements(sdata) for sdata in objects]
    try:
        for sdata in objects:
            if TILES_TABLE not in sdata.tables:
                pitch = training_pitch(model) if tile_um is None else tile_um
                lay_tiles([sdata], genes=model.genes, image_key=image_key, tile_um=pitch, mpp=mpp, overwrite=overwrite)
            elif laid_tiles(sdata):
                _keep_tiles(sdata, model, key, tile_um)
        yield
    except BaseException:
        for sdata, elements in zip(objects, before, strict=True):
            _restore(sdata, elements)
        raise


def _takes_tiles(sdata: SpatialData, table_key: str | None) -> bool:
    return set(sdata.tables) <= {TILES_TABLE} or (table_key == TILES_TABLE and TILES_TABLE in sdata.tables)


def training_pitch(model: Model) -> float | None:
    """Median distance of the training spots in micrometres (pixels for a model of plain pixels); None if unknown."""
    known = [pitch for pitch in model.provenance.get("pitch", []) if isinstance(pitch, int | float) and pitch > 0]
    return float(np.median(known)) if known else None


def _keep_tiles(sdata: SpatialData, model: Model, key: str, tile_um: float | None) -> None:
    if tile_um is not None:
        logger.warning(
            "There are tiles already, and `tile_um=` is not used. Lay others first: "
            "`nh.pp.tissue_tiles(sdata, tile_um=%g)`.",
            tile_um,
        )
    table = sdata.tables[TILES_TABLE]
    of_genes = {
        (attribute, name) for attribute in ("layers", "var", "varm", "varp") for name in getattr(table, attribute)
    }
    if of_genes <= set(places_of(table, key)) and list(table.var_names) != model.genes:
        _put(sdata, TILES_TABLE, with_genes(table, model.genes))


def _elements(sdata: SpatialData) -> dict[str, Any]:
    return {name: element for kind in (sdata.shapes, sdata.tables) for name, element in kind.items()}


def _restore(sdata: SpatialData, before: Mapping[str, Any]) -> None:
    """Give the object the shapes and tables back that it had."""
    for name, element in _elements(sdata).items():
        if element is not before.get(name):
            del sdata[name]
    for name, element in before.items():
        if name not in sdata:
            sdata[name] = element


def _put(sdata: SpatialData, name: str, table: AnnData) -> None:
    # Replacing an element draws a warning.
    del sdata[name]
    sdata[name] = table

"""Embeddings of patches by a frozen image encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nh2st._arguments import at_least_one
from nh2st._device import InferencePrecision
from nh2st._docs import documented
from nh2st._inference import check_place, checksum, features_of
from nh2st._keys import EMBEDDING, ENCODER, PATCH_PX, PATCH_UM
from nh2st._results import Kind, check_replaceable, make_room, write_record
from nh2st._sections import (
    ImageData,
    ImageKey,
    Mpp,
    Section,
    Selection,
    find_sections,
    resolve_mpp,
    tables_of,
    windows_of,
)
from nh2st.nn import create_encoder


@documented
def embed(
    data: ImageData,
    encoder: str = ENCODER,
    *,
    encoder_weights: str | Path | None = "pretrained",
    key_added: str = EMBEDDING,
    patch_um: float = PATCH_UM,
    patch_px: int = PATCH_PX,
    batch_size: int = 64,
    device: str = "auto",
    precision: InferencePrecision = "auto",
    client: Any = None,
    overwrite: bool = False,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    mpp: Mpp = None,
    table_key: str | None = None,
    image_key: ImageKey = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> None:
    """Embed the patch of every spot with a frozen image encoder.

    Embeddings are kept in the cache (``settings.cache_dir``, at most ``settings.cache_limit`` bytes) and found again as
    long as image, scale, spots, patch size and encoder stay the same.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them, with images and spots.
    encoder
        Name of an encoder of :func:`nh2st.models.encoders` or of timm.
    encoder_weights
        ``"pretrained"``, a local weights file, or `None` for random weights.
    key_added
        Name of the embeddings in ``obsm``.
    patch_um
        Side of the patches in micrometres.
    patch_px
        Side of the patches in pixels, after resampling.
    batch_size
        Patches per step; does not change the result.
    %(device)s
    precision
        ``"32"``, ``"bf16"``, or ``"auto"`` for the faster of the two on the device; or, on a CPU, ``"int8"`` for 8-bit
        integers, several times as fast and less exact (see :func:`nh2st.tl.predict`).
    client
        A ``dask.distributed.Client``, whose workers share the work (see :func:`nh2st.tl.predict`).
    overwrite
        Replace embeddings of this name that this package did not write.
    %(sections)s
    %(spots)s
    %(mpp)s
    %(elements)s

    Returns
    -------
    `None`. Written into each table: ``obsm[key_added]``, float32 of shape (n_obs, n_features) with the precision of
    half floats and NaN for other spots, and ``uns["nh2st"][key_added]``, encoder, patch size, scale and precision
    (``"auto"`` where workers of a cluster differ).

    Raises
    ------
    ValueError
        If the encoder is unknown or cannot take such patches, the scale of an image is unknown, or embeddings would be
        replaced that are not ours.
    %(encoding_errors)s

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(n_sections=2)
    >>> nh.pp.embed(sdata, patch_px=32)
    >>> sdata["table"].obsm["nh2st_embedding"].shape
    (288, 1280)
    """
    at_least_one("batch_size", batch_size)
    meant = check_place(device, precision, client)
    found = find_sections(data, Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system))
    check_replaceable(tables_of(found), key_added, Kind.EMBEDDING, overwrite=overwrite)
    scales = [resolve_mpp(section, mpp) for section in found]
    windows = windows_of(found, patch_um=patch_um, patch_px=patch_px, mpp=scales)
    model = create_encoder(encoder, encoder_weights)
    model.map_shape(patch_px)
    weights = checksum(model)
    features = features_of(
        model,
        found,
        windows,
        weights=weights,
        batch_size=batch_size,
        device=device,
        precision=precision,
        client=client,
    )
    record = {
        "package_version": version("nh2st"),
        "encoder": encoder,
        "weights_sha256": weights,
        "patch_um": "native" if mpp == "native" else patch_um,
        "patch_px": patch_px,
        "precision": meant,
    }
    _write(found, features, scales, key_added, record)


def _write(
    sections: Sequence[Section],
    features: Sequence[np.ndarray],
    scales: Sequence[float | str],
    key: str,
    record: Mapping[str, Any],
) -> None:
    for table in tables_of(sections):
        mine = [number for number, section in enumerate(sections) if section.adata is table]
        values = np.full((table.n_obs, features[0].shape[1]), np.nan, dtype=np.float32)
        for number in mine:
            values[sections[number].rows] = features[number]
        make_room(table, key, Kind.EMBEDDING)
        table.obsm[key] = values
        mpp = {sections[number].region: scales[number] for number in mine}
        write_record(table, key, Kind.EMBEDDING, {**record, "mpp": mpp})

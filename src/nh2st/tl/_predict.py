"""Prediction of sections with a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nh2st._arguments import at_least_one
from nh2st._device import InferencePrecision
from nh2st._docs import documented
from nh2st._estimators import Encoding, Source
from nh2st._expression import PanelMatch, has_counts
from nh2st._inference import check_place
from nh2st._keys import PREDICTION
from nh2st._results import Kind, check_replaceable
from nh2st._sections import (
    NATIVE,
    ImageData,
    ImageKey,
    Mpp,
    Section,
    Selection,
    find_sections,
    fingerprint,
    resolve_mpp,
    tables_of,
    windows_of,
)
from nh2st._settings import logger
from nh2st.models import Model, available, load
from nh2st.tl._compatibility._differences import warn_of_differences
from nh2st.tl._compatibility._panel_check import check_panel
from nh2st.tl._prediction._prediction_records import record_predictions, recorded_model
from nh2st.tl._prediction._tiles_in_place import tiles_where_no_spots

_ROWS_LOOKED_AT = 1000


@documented
def predict(
    data: ImageData,
    model: Model | str | Path | None = None,
    *,
    key_added: str = PREDICTION,
    baselines: bool | None = None,
    batch_size: int = 64,
    tile_um: float | None = None,
    mpp: Mpp = None,
    device: str = "auto",
    precision: InferencePrecision = "auto",
    client: Any = None,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    overwrite: bool = False,
    table_key: str | None = None,
    image_key: ImageKey = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> None:
    """Predict the expression of the model's panel from the image, and write it into the table.

    An object without a table gets tiles where its image shows tissue (see :func:`nh2st.pp.tissue_tiles`): shapes
    ``nh2st_tiles`` and a table ``nh2st`` of the whole panel.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them, with images. Neither counts nor spots are needed.
    model
        What :func:`nh2st.tl.train` returned, the file of a saved model, or the name of a pretrained one
        (:func:`nh2st.models.available`). Where absent, the model that was trained on these objects in this session,
        else the first pretrained one; the log says which.
    key_added
        Name of the layer.
    baselines
        Also predict with the ridge baseline of the model, for :func:`nh2st.tl.evaluate`. Where absent, this is done
        where the table holds counts of the panel.
    batch_size
        Patches per step; does not change the result.
    tile_um
        Distance of the tiles in micrometres, on objects without spots; where absent, that of the training spots.
    mpp
        Micrometres per pixel of all images. Where absent, the scale that is known for each image.
    %(device)s
    precision
        ``"32"``, ``"bf16"``, or ``"auto"`` for the faster of the two on the device; or, on a CPU, ``"int8"``: encoders,
        that of the ridge too, compute in 8-bit integers, by OpenVINO and NNCF (``pip install "nh2st[int8]"``), several
        times as fast and less exact. Setting their scales takes as long as some hundred patches do, for each encoder;
        it is done on made-up tissue, so that what a spot gets does not depend on other spots.
    client
        A ``dask.distributed.Client``, whose workers share the work: each loads the model once, and reads the images
        itself, which therefore are to be where all workers see them. Pieces of lost workers are done again.
    %(sections)s
    %(spots)s
    overwrite
        Replace what is there under this name and is not a prediction of this package, with all that belongs to it.
    %(elements)s

    Returns
    -------
    `None`. Written into each table, in place of earlier predictions of this name (those of the same model for other
    sections are kept):

    - ``layers[key_added]``: float32 predictions in the model's target space, NaN for other spots; sparse where the
      table has genes outside the panel, whose columns are empty. The model's genes are looked for in ``var_names``,
      then in the column of ``var`` that has most of the others, versions of Ensembl ids disregarded,
    - ``layers[f"{key_added}_std"]``, by the context network: standard deviation of the predictions, from the spread of
      the ensemble and, for each gene, the errors on validation spots,
    - ``var[f"{key_added}_predicted"]``: which genes were predicted,
    - ``obsm[key_added]``: genes of the panel that the table lacks,
    - ``uns["nh2st"][key_added]``: model, panel under the names of the table, target, and scale and precision of
      each region (``"auto"`` where workers of a cluster differ),
    - with `baselines`, ``layers[f"{key_added}_ridge"]`` and ``var[f"{key_added}_training_mean"]``.

    Raises
    ------
    ValueError
        If no model is known, fewer than a tenth of its genes are in a table, the scale of an image is unknown, a slide
        shows no tissue, or something else than predictions would be replaced.
    %(encoding_errors)s

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(n_sections=2)
    >>> model = nh.tl.train(sdata, genes=20, patch_px=64, max_epochs=1)  # doctest: +SKIP
    >>> nh.tl.predict(sdata, model)  # doctest: +SKIP
    >>> sdata["table"].layers["nh2st"].shape  # doctest: +SKIP
    (288, 60)
    """
    at_least_one("batch_size", batch_size)
    meant = check_place(device, precision, client)
    chosen = _resolve_model(model, data)
    scale = _resolve_scale(chosen, mpp)
    logger.info("Predicting with %r.", chosen)
    with tiles_where_no_spots(
        data,
        chosen,
        key_added,
        table_key=table_key,
        image_key=image_key,
        tile_um=tile_um,
        mpp=scale,
        overwrite=overwrite,
    ):
        found = find_sections(data, Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system))
        matches = _matches(found, chosen, key_added, overwrite=overwrite)
        scales = [resolve_mpp(section, scale) for section in found]
        _compare_with_training(found, scales, chosen)
        patch_um = chosen.patch_um or float(chosen.patch_px)
        windows = windows_of(found, patch_um=patch_um, patch_px=chosen.patch_px, mpp=scales)
        with_ridge = _wants_ridge(found, chosen, baselines, matches)
        encoding = Encoding(device, precision, batch_size, client)
        predicted = chosen.estimator.predict_all(chosen, Source(found, windows), encoding, ridge=any(with_ridge))
        predicted = [
            values if ridge else replace(values, ridge=None)
            for values, ridge in zip(predicted, with_ridge, strict=True)
        ]
        record_predictions(found, chosen, key_added, predicted, scales, meant, matches)


def _resolve_model(model: object, data: ImageData) -> Model:
    if model is None:
        return recorded_model(data) or _default_model()
    if isinstance(model, str | Path):
        return load(model)
    if not isinstance(model, Model):
        msg = f"`model` must be what `nh.tl.train` returned, or the file of a saved model, not {type(model).__name__}."
        raise TypeError(msg)
    return model


def _default_model() -> Model:
    name = next(iter(available().index), None)
    if name is None:
        msg = (
            "Which model? None was given, none was trained on these objects in this session, and there is no "
            "pretrained one. Pass what `nh.tl.train` returned, or the file of a saved model: "
            '`nh.tl.predict(sdata, "model.safetensors")`.'
        )
        raise ValueError(msg)
    logger.warning("No model was given, and none was trained on these objects: the pretrained %r is used.", name)
    return load(name)


def _resolve_scale(model: Model, mpp: Mpp) -> Mpp:
    """Scale to cut patches at, which must be of the model's kind: physical or plain pixels."""
    if model.patch_um is None and mpp not in (None, NATIVE):
        msg = f'mpp={mpp!r} was given, but the model was trained on plain pixels (`mpp="native"`). Leave `mpp=` out.'
        raise ValueError(msg)
    if model.patch_um is not None and mpp == NATIVE:
        msg = (
            f'mpp="native" was given, but the model was trained on patches of {model.patch_um:g} um. Give the '
            "micrometres per pixel, such as `mpp=0.5`."
        )
        raise ValueError(msg)
    return "native" if model.patch_um is None else mpp


def _matches(sections: Sequence[Section], model: Model, key: str, *, overwrite: bool) -> dict[int, PanelMatch]:
    """Where the model's genes are in each table (by its id), after all checks of what is to be written."""
    tables = tables_of(sections)
    check_replaceable(tables, key, Kind.PREDICTIONS, overwrite=overwrite)
    matches = {id(table): check_panel(table, model) for table in tables}
    for match in matches.values():
        if missing := match.missing:
            logger.info(
                "%d genes of the model are not in the table; their predictions are in obsm[%r].", len(missing), key
            )
    return matches


def _compare_with_training(sections: Sequence[Section], scales: Sequence[float | str], model: Model) -> None:
    seen = set(model.provenance.get("fingerprints", []))
    trained = [fingerprint(section) in seen for section in sections]
    if names := [section.name for section, again in zip(sections, trained, strict=True) if again]:
        logger.warning(
            "The model was trained on section%s %s: how well it does there says nothing about new sections.",
            "s" if len(names) > 1 else "",
            ", ".join(map(repr, names)),
        )
    new = [number for number, again in enumerate(trained) if not again]
    warn_of_differences([sections[number] for number in new], [scales[number] for number in new], model)


def _wants_ridge(
    sections: Sequence[Section], model: Model, baselines: bool | None, matches: Mapping[int, PanelMatch]
) -> list[bool]:
    if baselines and model.baselines is None:
        msg = "The model carries no baselines; leave `baselines=` out."
        raise ValueError(msg)
    if model.baselines is None or baselines is False:
        return [False] * len(sections)
    return [bool(baselines) or _has_counts(section, matches[id(section.adata)]) for section in sections]


def _has_counts(section: Section, match: PanelMatch) -> bool:
    return has_counts(section.adata, section.rows[:_ROWS_LOOKED_AT], match.names)

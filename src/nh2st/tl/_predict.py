"""Prediction of sections with a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from nh2st._keys import PREDICTION
from nh2st._patches import Windows, iter_patches
from nh2st._results import check_replaceable
from nh2st._scale import NATIVE, Mpp, patch_windows, resolve_mpp
from nh2st._sections import ImageData, Section, find_sections, tables_of
from nh2st._settings import logger, progress
from nh2st.models import Model, load
from nh2st.pp._counts import has_counts
from nh2st.tl._arguments import at_least_one
from nh2st.tl._device import Precision, autocast, resolve_device, resolve_precision
from nh2st.tl._record import fingerprint, record_predictions, recorded_model

_LEAST_OVERLAP = 0.1
_ROWS_LOOKED_AT = 1000


def predict(
    data: ImageData,
    model: Model | str | Path | None = None,
    *,
    key_added: str = PREDICTION,
    overwrite: bool = False,
    baselines: bool | None = None,
    batch_size: int = 64,
    mpp: Mpp = None,
    device: str = "auto",
    precision: Precision = "auto",
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> None:
    """Predict the expression of the model's panel from the image, and write it into the table.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them, with images and spots. Counts are not needed.
    model
        What :func:`nh2st.tl.train` returned, or the file of a saved model. Where absent, the model that was trained on
        these objects in this session.
    key_added
        Name of the layer.
    overwrite
        Replace a layer of this name that was not written by this package.
    baselines
        Also predict with the ridge baseline of the model, for :func:`nh2st.tl.evaluate`. Where absent, this is done
        where the table holds counts of the panel.
    batch_size
        Patches per step; does not change the result.
    mpp
        Micrometres per pixel of all images. Where absent, the scale that is known for each image.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    precision
        ``"32"``, ``"bf16"``, or ``"auto"`` for the faster of the two on the device.
    sections
        Names of the sections to predict; all where absent.
    spots
        Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where there is one. Other spots are NaN.
    table_key, image_key, shapes_key, coordinate_system
        Which elements to use where several fit.

    Returns
    -------
    `None`. Written into each table, in place of earlier predictions of this name (those of the same model for other
    sections are kept):

    - ``layers[key_added]``: float32 predictions in the model's target space; sparse where the table has genes that are
      not in the panel, whose columns are empty,
    - ``var[f"{key_added}_predicted"]``: which genes were predicted,
    - ``obsm[key_added]``: genes of the panel that the table lacks,
    - ``uns["nh2st"][key_added]``: model, panel, target and scale,
    - with `baselines`, ``layers[f"{key_added}_ridge"]`` and ``var[f"{key_added}_training_mean"]``.

    Raises
    ------
    ValueError
        If no model is known, fewer than a tenth of its genes are in a table, the scale of an image is unknown, or a
        layer would be replaced that is not ours.

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
    torch_device = resolve_device(device)
    chosen = _resolve_model(model, data)
    scale = _resolve_scale(chosen, mpp)
    logger.info("Predicting with %r.", chosen)
    found = find_sections(
        data,
        sections=sections,
        spots=spots,
        table_key=table_key,
        image_key=image_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
    )
    _check(found, chosen, key_added, overwrite=overwrite)
    scales = [resolve_mpp(one, scale) for one in found]
    patch_um = chosen.patch_um or float(chosen.patch_px)
    windows = [
        patch_windows(one, patch_um=patch_um, patch_px=chosen.patch_px, mpp=um)
        for one, um in zip(found, scales, strict=True)
    ]
    predictor = _Predictor(chosen, torch_device, resolve_precision(precision, torch_device), batch_size)
    with_ridge = _wants_ridge(found, chosen, baselines)
    predicted = [
        predictor.predict(one, window, ridge=ridge)
        for one, window, ridge in zip(found, windows, with_ridge, strict=True)
    ]
    record_predictions(found, chosen, key_added, predicted, scales)


def _resolve_model(model: object, data: ImageData) -> Model:
    if model is None:
        return recorded_model(data)
    if isinstance(model, str | Path):
        return load(model)
    if not isinstance(model, Model):
        msg = f"`model` must be what `nh.tl.train` returned, or the file of a saved model, not {type(model).__name__}."
        raise TypeError(msg)
    return model


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


def _check(sections: Sequence[Section], model: Model, key: str, *, overwrite: bool) -> None:
    for table in tables_of(sections):
        check_replaceable(table, key, overwrite=overwrite)
        known = table.var_names.isin(model.genes).sum()
        if known < _LEAST_OVERLAP * len(model.genes):
            msg = (
                f"Only {known} of the model's {len(model.genes)} genes ({', '.join(model.genes[:3])}, ...) are in the "
                f"table ({', '.join(table.var_names[:3])}, ...): another species, or other gene identifiers? Rename "
                "`var_names`, or choose a model that fits."
            )
            raise ValueError(msg)
        if known < len(model.genes):
            logger.info(
                "%d genes of the model are not in the table; their predictions are in obsm[%r].",
                len(model.genes) - known,
                key,
            )
    seen = set(model.provenance.get("fingerprints", []))
    trained = [one.name for one in sections if fingerprint(one) in seen]
    if trained:
        logger.warning(
            "The model was trained on section%s %s: how well it does there says nothing about new sections.",
            "s" if len(trained) > 1 else "",
            ", ".join(map(repr, trained)),
        )


def _wants_ridge(sections: Sequence[Section], model: Model, baselines: bool | None) -> list[bool]:
    if baselines and model.baselines is None:
        msg = "The model carries no baselines; leave `baselines=` out."
        raise ValueError(msg)
    if model.baselines is None or baselines is False:
        return [False] * len(sections)
    return [bool(baselines) or has_counts(one.adata, one.rows[:_ROWS_LOOKED_AT], model.genes) for one in sections]


@dataclass(frozen=True)
class _Predictor:
    model: Model
    device: torch.device
    precision: Literal["32", "bf16"]
    batch_size: int

    def predict(self, section: Section, windows: Windows, *, ridge: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Predictions of network and ridge for a section, each (n, n_genes)."""
        shape = (len(section.rows), len(self.model.genes))
        values = np.empty(shape, dtype=np.float32)
        linear = np.empty(shape, dtype=np.float32) if ridge else None
        network = self.model.network.to(self.device).eval()
        baselines = self.model.baselines
        if baselines is not None:
            baselines.encoder.to(self.device)
        strips = iter_patches(section.image, windows)
        bar = progress(None, f"predict {section.name}", total=shape[0])
        for members, patches in strips:
            for start in range(0, len(members), self.batch_size):
                batch = torch.from_numpy(patches[start : start + self.batch_size]).to(self.device)
                rows = members[start : start + self.batch_size]
                with torch.inference_mode(), autocast(self.device, self.precision):
                    values[rows] = network.predict(batch).float().cpu().numpy()
                # In the precision that it was fitted in.
                if linear is not None and baselines is not None:
                    linear[rows] = baselines.ridge(batch).cpu().numpy()
                bar.update(len(rows))
        bar.close()
        return values, linear

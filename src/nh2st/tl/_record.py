"""What is written into the user's objects: predictions, provenance, and which model was trained on what."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from nh2st._keys import NAMESPACE, TRAINING
from nh2st._sections import Data, Section, objects_of, tables_of
from nh2st.models import Model

_trained: weakref.WeakKeyDictionary[Any, Model] = weakref.WeakKeyDictionary()


def training_provenance(
    sections: Sequence[Section], groups: Sequence[np.ndarray], mpp: Sequence[float | str], **settings: Any
) -> dict[str, Any]:
    """Plain values that say what a model was trained on, and how."""
    return {
        "package_version": version("nh2st"),
        "sections": [one.name for one in sections],
        "fingerprints": [fingerprint(one) for one in sections],
        "groups": sorted({str(name) for labels in groups for name in np.unique(labels.astype(str))}),
        "mpp": [value if isinstance(value, str) else round(value, 6) for value in mpp],
        "spots": [len(one.rows) for one in sections],
        **settings,
    }


def fingerprint(section: Section) -> str:
    """Short checksum of the spots' names and places, by which a section is known again."""
    digest = hashlib.sha256(np.round(section.pixels).astype(np.int64).tobytes())
    digest.update("\n".join(section.adata.obs_names[section.rows]).encode())
    return digest.hexdigest()[:16]


def record_training(data: Data, sections: Sequence[Section], model: Model) -> None:
    """Write provenance into the tables, and remember the model for these objects."""
    for table in tables_of(sections):
        table.uns.setdefault(NAMESPACE, {})[TRAINING] = model_provenance(model) | {
            "history": pd.DataFrame(model.history).to_dict("list")
        }
    remember(data, model)


def model_provenance(model: Model) -> dict[str, Any]:
    """The model's part of what is kept in ``uns``: strings, numbers, lists of strings and flat dictionaries."""
    return {
        "package_version": version("nh2st"),
        "model": model.name,
        "sha256": model.sha256,
        "genes": list(model.genes),
        "target": model.target.to_dict(),
        "target_description": model.target.describe(),
        "encoder": model.config.encoder,
        "patch_um": "native" if model.patch_um is None else model.patch_um,
        "patch_px": model.patch_px,
        "seed": model.provenance.get("seed", -1),
        "training_sections": list(model.provenance.get("sections", [])),
        "training_groups": list(model.provenance.get("groups", [])),
        "validation": model.provenance.get("validation", "unknown"),
    }


def remember(data: Data, model: Model) -> None:
    """Keep which model was trained on these objects, for as long as it lives."""
    for _, value in objects_of(data):
        _trained[value] = model


def recorded_model(data: Data) -> Model:
    """Model that was trained on these objects in this session.

    Raises
    ------
    ValueError
        If there is none, or not the same for all.
    """
    values = [value for _, value in objects_of(data, images=True)]
    models = {id(model): model for value in values if (model := _trained.get(value)) is not None}
    if len(models) == 1:
        return next(iter(models.values()))
    why = "several were trained on these objects" if models else "none was trained on this object in this session"
    msg = (
        f"Which model? None was given, and {why}. Pass what `nh.tl.train` returned, or the file of a saved model: "
        '`nh.tl.predict(sdata, "model.safetensors")`.'
    )
    raise ValueError(msg)

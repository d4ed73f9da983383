"""What a cross-validation depends on, by which its folds are known again."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nh2st._estimators import BASELINE_TITLES
from nh2st._patches import patches_key
from nh2st.tl._folds._fold_data import FoldData
from nh2st.tl._folds._settings_to_try import Candidates
from nh2st.tl._training._training_settings import TrainingSettings


def identity_of(
    data: FoldData,
    candidates: Candidates,
    panels: Sequence[list[str]],
    n_folds: int | None,
    extras: Sequence[str] | None,
) -> dict[str, Any]:
    """Everything that the result depends on, under names that an error can tell."""
    named = {name: vars(settings) for name, settings in candidates.named.items()}
    values: dict[str, Any] = {
        "package version": version("nh2st"),
        **vars(candidates.asked),
        "precision": candidates.place.precision,
        "settings": {} if list(candidates.named.values()) == [candidates.asked] else named,
        "encoder weights": sorted({_weights(settings) for settings in candidates.all}),
        "n_folds": n_folds,
        "names of baselines": list(BASELINE_TITLES),
        "baselines": False if extras is None else extras or True,
        "genes": panels,
        "sections": [section.name for section in data.sections],
        "groups": _digest("\n".join(data.group)),
    }
    windows = data.windows(candidates.asked.patch_size)
    for section, counts, part in zip(data.sections, data.counts, windows, strict=True):
        matrix, names = counts.matrix, section.adata.obs_names[section.rows]
        values[f"counts of section {section.name!r}"] = _digest(
            *section.adata.var_names, *names, matrix.data, matrix.indices, matrix.indptr
        )
        values[f"patches of section {section.name!r}"] = patches_key(section.image, part)
    return values


def _weights(settings: TrainingSettings) -> str:
    """Checksum of a file of weights, which may change under its name."""
    file = Path(settings.encoder_weights or "")
    return _digest(np.frombuffer(file.read_bytes(), dtype=np.uint8)) if file.is_file() else ""


def _digest(*parts: str | np.ndarray) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part.encode() + b"\n" if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]

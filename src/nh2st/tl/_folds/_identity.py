"""What a cross-validation depends on, by which its folds are known again."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nh2st._expression import read_counts
from nh2st._patches import patches_key
from nh2st.tl._folds._data import Bench
from nh2st.tl._folds._settings_to_try import Candidates
from nh2st.tl._training._settings import Recipe


def identity_of(
    bench: Bench,
    candidates: Candidates,
    panels: Sequence[list[str]],
    n_folds: int | None,
    extras: Sequence[str] | None,
) -> dict[str, Any]:
    """Everything that the result depends on, under names that an error can tell."""
    recipes = {name: vars(recipe) for name, recipe in candidates.named.items()}
    values: dict[str, Any] = {
        "package version": version("nh2st"),
        **vars(candidates.recipe),
        "precision": candidates.place.precision,
        "settings": {} if list(candidates.named.values()) == [candidates.recipe] else recipes,
        "encoder weights": sorted({_weights(recipe) for recipe in (candidates.recipe, *candidates.named.values())}),
        "n_folds": n_folds,
        "baselines": False if extras is None else extras or True,
        "genes": panels,
        "sections": [one.name for one in bench.sections],
        "groups": _digest("\n".join(bench.group)),
    }
    for one, windows in zip(bench.sections, bench.windows(candidates.recipe), strict=True):
        counts = read_counts(one, bench.layer).matrix
        values[f"counts of section {one.name!r}"] = _digest(
            *one.adata.var_names, *one.adata.obs_names[one.rows], counts.data, counts.indices, counts.indptr
        )
        values[f"patches of section {one.name!r}"] = patches_key(one.image, windows)
    return values


def _weights(recipe: Recipe) -> str:
    """Checksum of a file of weights, which may change under its name."""
    file = Path(recipe.encoder_weights or "")
    return _digest(np.frombuffer(file.read_bytes(), dtype=np.uint8)) if file.is_file() else ""


def _digest(*parts: str | np.ndarray) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part.encode() + b"\n" if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]

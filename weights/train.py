"""Train a pretrained model of this folder, after cross-validating its recipe, and print the score for its card.

    python weights/train.py her2st-effnetlite0

leaves each section out once, trains on the others, and prints the scores beside the baselines; then trains on all
sections and writes `weights/NAME.safetensors`. `register.py` enters the file into the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd
from spatialdata import SpatialData

import nh2st as nh

RECIPE: dict[str, Any] = {"fine_tune": "none", "network": {"map_px": 1}, "max_epochs": 30}


@dataclass(frozen=True)
class Plan:
    """Sections that a model is trained on, and how they are read."""

    read: Callable[..., SpatialData]
    sections: tuple[str, ...]


PLANS = {
    "her2st-effnetlite0": Plan(nh.datasets.her2st, ("B4", "C2", "C3", "C4")),
    "mob-effnetlite0": Plan(nh.datasets.mouse_olfactory_bulb, ("MOB1", "MOB2", "MOB3")),
}


def cross_validate(sdata: SpatialData, sections: tuple[str, ...], seed: int) -> pd.DataFrame:
    """Scores on each section of a model that was trained on the others."""
    parts = []
    for held_out in sections:
        rest = [section for section in sections if section != held_out]
        model = nh.tl.train(sdata, sections=rest, seed=seed, **RECIPE)
        nh.tl.predict(sdata, model, sections=[held_out], overwrite=True)
        scores = nh.tl.evaluate(sdata, sections=[held_out])
        parts.append(scores.query("truth == 'raw'").assign(held_out=held_out, seed=seed))
    return pd.concat(parts)


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(list(PLANS)))
@click.option("--seeds", default=3, show_default=True, help="How often to cross-validate; 0 does not.")
@click.option("--score-only", is_flag=True, help="Train no final model.")
def main(name: str, seeds: int, score_only: bool) -> None:
    """Score the recipe, then train on everything."""
    plan = PLANS[name]
    sdata = plan.read(list(plan.sections))
    if seeds:
        scores = pd.concat([cross_validate(sdata, plan.sections, seed) for seed in range(seeds)])
        columns = ["pearson", "mse"]
        print(scores.groupby(["held_out", "model"])[columns].mean().unstack().round(3).to_string())
        print(scores.groupby("model")[columns].mean().round(4).to_string())
    if not score_only:
        model = nh.tl.train(sdata, sections=list(plan.sections), **RECIPE)
        print(model.save(Path(__file__).parent / f"{name}.safetensors", inference_only=True))


if __name__ == "__main__":
    main()

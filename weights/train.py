"""Train a pretrained model of this folder, after cross-validating its recipe, and print the score for its card.

    python weights/train.py her2st-context-effnetlite0

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

PAPER: dict[str, Any] = {"variant": "paper", "fine_tune": "none", "network": {"map_px": 1}, "max_epochs": 30}
CONTEXT: dict[str, Any] = {"variant": "context"}


@dataclass(frozen=True)
class Plan:
    """Sections that a model is trained on, how they are read, and the settings of training."""

    read: Callable[..., SpatialData]
    sections: tuple[str, ...]
    recipe: dict[str, Any]


_HER2ST = (nh.datasets.her2st, ("B4", "C2", "C3", "C4"))
_MOB = (nh.datasets.mouse_olfactory_bulb, ("MOB1", "MOB2", "MOB3"))
PLANS = {
    "her2st-context-effnetlite0": Plan(*_HER2ST, CONTEXT),
    "mob-context-effnetlite0": Plan(*_MOB, CONTEXT),
    "her2st-effnetlite0": Plan(*_HER2ST, PAPER),
    "mob-effnetlite0": Plan(*_MOB, PAPER),
}


def cross_validate(sdata: SpatialData, plan: Plan, seed: int) -> pd.DataFrame:
    """Scores on each section of a model that was trained on the others, and of the baselines."""
    groups = {section: section for section in plan.sections}
    scores = nh.tl.cross_validate(sdata, groups=groups, genes=250, seed=seed, overwrite=True, **plan.recipe)
    return scores[(scores["gene"] == "") & (scores["truth"] == "raw")].assign(seed=seed)


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(list(PLANS)))
@click.option("--seeds", default=3, show_default=True, help="How often to cross-validate; 0 does not.")
@click.option("--score-only", is_flag=True, help="Train no final model.")
def main(name: str, seeds: int, score_only: bool) -> None:
    """Score the recipe, then train on everything."""
    plan = PLANS[name]
    sdata = plan.read(list(plan.sections))
    if seeds:
        scores = pd.concat([cross_validate(sdata, plan, seed) for seed in range(seeds)])
        chosen = scores[scores["metric"].isin(["pearson", "mse"])]
        for by in (["section", "model"], ["model"]):
            print(chosen.groupby([*by, "metric"])["value"].mean().unstack("metric").round(4).to_string())
    if not score_only:
        model = nh.tl.train(sdata, sections=list(plan.sections), **plan.recipe)
        print(model.save(Path(__file__).parent / f"{name}.safetensors", inference_only=True))


if __name__ == "__main__":
    main()

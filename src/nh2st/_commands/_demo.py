"""The demo: the whole path from sections to predicted genes, once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import nh2st as nh
from nh2st._estimators import BASELINE_TITLES
from nh2st._keys import DEMO_EPOCHS
from nh2st._slides import write_store

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

_SECTIONS_SHOWN = 3


@dataclass(frozen=True)
class _Plan:
    sdata: SpatialData
    training: list[str]
    held_out: str
    genes_shown: list[str]
    settings: dict[str, Any]


def run(*, data: Path | None, output: Path, epochs: int | None, device: str, seed: int) -> None:
    """Train, predict a held-out section, evaluate, draw, and write everything into the output folder."""
    import matplotlib as mpl

    mpl.use("Agg")
    started = time.monotonic()
    _make_folder(output)
    _step("Sections")
    plan = _synthetic(seed, epochs) if data is None else _her2st(data, epochs)

    _step(f"Training on {', '.join(plan.training)}")
    model = nh.tl.train(plan.sdata, sections=plan.training, seed=seed, device=device, **plan.settings)
    model.save(output / "model.safetensors")

    _step(f"Predicting {plan.held_out}, which was not trained on")
    nh.tl.predict(plan.sdata, model, sections=[plan.held_out], device=device)
    metrics = nh.tl.evaluate(plan.sdata, sections=[plan.held_out])
    metrics.to_csv(output / "metrics.csv", index=False)

    _step("Figures")
    _draw(plan, model, output)
    _step("SpatialData")
    write_store(plan.sdata, output / "sections.zarr")
    click.echo(f"\n{_table(metrics, plan.held_out, model.target.describe())}")
    click.echo(f"\nDone in {time.monotonic() - started:.0f} s. Look into {output}/:")
    for path in sorted(output.iterdir()):
        click.echo(f"  {path.name}")


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"The folder {output} cannot be made: {error.strerror}. Name another with --output."
        raise OSError(msg) from error


def _step(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


def _synthetic(seed: int, epochs: int | None) -> _Plan:
    return _Plan(
        sdata=nh.datasets.synthetic(n_sections=5, seed=seed),
        training=["S1", "S2", "S3", "S4"],
        held_out="S5",
        genes_shown=["EPCAM", "COL1A1", "CD3E"],
        # Made-up tissue is unlike what the encoder was trained on, so that the network whose encoder is trained does
        # best; with small patches and a fast schedule, so that two CPU cores need less than three minutes.
        settings={
            "variant": "paper",
            "patch_px": 64,
            "learning_rate": 1.5e-3,
            "max_epochs": epochs or DEMO_EPOCHS,
        },
    )


def _her2st(folder: Path, epochs: int | None) -> _Plan:
    training, held_out = ["B4", "C2", "C3"], "C4"
    return _Plan(
        sdata=nh.datasets.her2st([*training, held_out], path=folder),
        training=training,
        held_out=held_out,
        genes_shown=["ERBB2", "FASN", "COL1A1"],
        settings={"max_epochs": epochs},
    )


def _draw(plan: _Plan, model: nh.models.Model, output: Path) -> None:
    section = [plan.held_out]
    genes = [gene for gene in plan.genes_shown if gene in model.genes] or model.genes[:_SECTIONS_SHOWN]
    nh.pl.spatial_genes(plan.sdata, genes, sections=section, save=output / "spatial_genes.png", show=False)
    nh.pl.gene_correlation(plan.sdata, save=output / "gene_correlation.png", show=False)
    nh.pl.training_history(model, save=output / "training_history.png", show=False)
    nh.pl.patches(plan.sdata, sections=section, patch_px=model.patch_px, save=output / "patches.png", show=False)


def _table(metrics: pd.DataFrame, section: str, units: str) -> str:
    whole = metrics[metrics["gene"] == ""]
    means = whole.pivot_table(index=["model", "truth"], columns="metric", values="value", sort=False, dropna=False)
    n_genes = metrics.loc[metrics["gene"] != "", "gene"].nunique()
    lines = [
        f"Held-out section {section}: means over {n_genes} genes. MSE and MAE in units of {units}.",
        f"{'':>15} {'truth':>9} {'PCC':>9} {'Spearman':>9} {'MSE':>8} {'MAE':>8}",
    ]
    for row in means.reset_index().itertuples():
        values = [f"{value:.3f}" if value == value else "undefined" for value in (row.pearson, row.spearman)]
        name = BASELINE_TITLES.get(row.model, row.model)
        lines.append(f"{name:>15} {row.truth:>9} {values[0]:>9} {values[1]:>9} {row.mse:>8.3f} {row.mae:>8.3f}")
    return "\n".join(lines)

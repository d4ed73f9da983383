"""How well expression is predicted on real sections that were not trained on: networks, ablations and baselines.

    python benchmarks/accuracy.py run --out study --seeds 3
    python benchmarks/accuracy.py report study
    python benchmarks/accuracy.py calibrate
    python benchmarks/accuracy.py integers

`run` cross-validates every network on HER2-positive breast cancer (leave a section out, leave a donor out) and on mouse
olfactory bulb (leave a section out), and writes the scores of each into a file; what is there is not done again.
Images and counts come from the folder that NH2ST_DATA_DIR names, else they are downloaded. `report` prints the tables,
`calibrate` how often measured values lie within the predicted intervals of the context network, `integers` what the
network loses where its encoder computes in 8-bit integers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from scipy.sparse import issparse
from scipy.stats import norm
from spatialdata import SpatialData

import nh2st as nh
from nh2st._estimators import BASELINE_TITLES

N_GENES = 250
SHARES = (0.5, 0.8, 0.95)
KEPT = ("pearson", "spearman", "mse", "auc", "ceiling", "ssim")
CONTEXT, PAPER = "context", "paper, frozen"


@dataclass(frozen=True)
class Scheme:
    """What is left out of which sections."""

    read: Callable[..., SpatialData]
    groups: dict[str, str]


HER2ST = ("B4", "C2", "C3", "C4")
MOB = ("MOB1", "MOB2", "MOB3")
SCHEMES = {
    "her2st, leave a section out": Scheme(nh.datasets.her2st, {name: name for name in HER2ST}),
    "her2st, leave a donor out": Scheme(nh.datasets.her2st, {name: name[0] for name in HER2ST}),
    "MOB, leave a section out": Scheme(nh.datasets.mouse_olfactory_bulb, {name: name for name in MOB}),
}


@dataclass(frozen=True)
class Network:
    """Training settings under a name; `most_seeds` is given where a run is costly."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    most_seeds: int = 100


def context(name: str, **network: Any) -> Network:
    """The context network with other settings."""
    return Network(f"{CONTEXT}, {name}", {"network": network})


def paper(name: str, **network: Any) -> Network:
    """The published network on pooled features of a frozen encoder."""
    settings = {"variant": "paper", "fine_tune": "none", "network": {"map_px": 1, **network}}
    return Network(f"{PAPER}{name}", settings)


ENCODER_ONCE = [Network(CONTEXT), paper("")]
NETWORKS = [
    *ENCODER_ONCE,
    context("no neighbours", neighbors="none"),
    context("mean of neighbours", neighbors="mean"),
    context("one patch size", patch_scales=[1.0]),
    context("features standardised", normalize="standardize"),
    context("features as they are", normalize="none"),
    context("one member", members=1),
    context("contrastive 0.1", query_weight=0.1, neighbor_weight=0.1),
    context("Poisson", likelihood="poisson"),
    context("negative binomial", likelihood="negative_binomial"),
    paper(", no query loss", query_weight=0.0),
    paper(", no neighbour loss", neighbor_weight=0.0),
    paper(", no contrastive loss", query_weight=0.0, neighbor_weight=0.0),
    Network("paper, frozen 7x7 map", {"variant": "paper", "fine_tune": "none"}, most_seeds=1),
]
NO_LOSS = {"query_weight": 0.0, "neighbor_weight": 0.0}


def fine_tuned(name: str, **network: float) -> Network:
    """A network that is trained with its encoder, on patches of half the side for half the epochs: hours on a CPU."""
    settings = {"variant": "paper", "patch_px": 112, "max_epochs": 12, "network": network}
    return Network(f"{name}fine-tuned (112 px, 12 epochs)", settings, most_seeds=1)


FINE_TUNED = [
    fine_tuned("paper, "),
    fine_tuned("linear head, ", map_px=1, **NO_LOSS),
    fine_tuned("paper, no contrastive loss, ", **NO_LOSS),
    fine_tuned("paper, no neighbour loss, ", neighbor_weight=0.0),
    fine_tuned("paper, no query loss, ", query_weight=0.0),
]


@click.group(help=__doc__)
def main() -> None:
    """Run the study, or print its tables."""


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the scores.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--scheme", "schemes", multiple=True, type=click.Choice(list(SCHEMES)), help="All where absent.")
@click.option("--encoder", default="tf_efficientnet_lite0", show_default=True)
@click.option("--encoder-weights", default="pretrained", show_default=True, help="'pretrained', or a file.")
@click.option("--only-main", is_flag=True, help="Only the two networks, not their ablations: for a second encoder.")
@click.option("--fine-tuned", is_flag=True, help="The networks whose encoder is trained: hours without GPU.")
@click.option("--device", default="auto", show_default=True)
def run(
    out: Path,
    seeds: int,
    schemes: tuple[str, ...],
    encoder: str,
    encoder_weights: str,
    only_main: bool,
    fine_tuned: bool,
    device: str,
) -> None:
    """Cross-validate every network."""
    networks = FINE_TUNED if fine_tuned else ENCODER_ONCE if only_main else NETWORKS
    out.mkdir(parents=True, exist_ok=True)
    for name in schemes or SCHEMES:
        scheme = SCHEMES[name]
        sdata = scheme.read(list(scheme.groups))
        shared = {"groups": scheme.groups, "genes": N_GENES, "overwrite": True, "device": device}
        shared |= {"encoder": encoder, "encoder_weights": encoder_weights}
        for network, seed in _runs(networks, seeds):
            path = out / f"{_slug(name)}-{_slug(encoder)}-{_slug(network.name)}-{seed}.csv"
            if path.exists():
                continue
            with_baselines = network.name == CONTEXT and seed == 0
            started = time.monotonic()
            baselines = "2x" if with_baselines else False
            scores = nh.tl.cross_validate(sdata, baselines=baselines, seed=seed, **shared, **network.settings)
            seconds = (time.monotonic() - started) / scores["fold"].nunique()
            scores = scores[scores["metric"].isin(KEPT) & (scores["gene"] != "")]
            scores = scores.assign(scheme=name, encoder=encoder, seed=seed, seconds=seconds)
            scores["model"] = scores["model"].replace({**BASELINE_TITLES, "model": network.name})
            temporary = path.with_suffix(".tmp")
            scores.to_csv(temporary, index=False)
            temporary.rename(path)
            click.echo(
                f"{name}: {network.name}, seed {seed}: {_mean(scores, network.name):.4f}, {seconds:.0f} s a fold"
            )


def _runs(networks: list[Network], seeds: int) -> Iterator[tuple[Network, int]]:
    for seed in range(seeds):
        for network in networks:
            if seed < network.most_seeds:
                yield network, seed


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def _mean(scores: pd.DataFrame, model: str) -> float:
    return _pearson(scores[scores["model"] == model]).groupby("section")["value"].mean().mean()


def _pearson(scores: pd.DataFrame, truth: str = "raw") -> pd.DataFrame:
    return scores[(scores["metric"] == "pearson") & (scores["truth"] == truth)]


@main.command()
@click.argument("out", type=click.Path(path_type=Path, exists=True))
def report(out: Path) -> None:
    """Print the tables of `run`."""
    nh.settings.verbosity = "warning"
    scores = pd.concat([pd.read_csv(path) for path in sorted(out.glob("*.csv"))], ignore_index=True)
    for (scheme, encoder), part in scores.groupby(["scheme", "encoder"], sort=False):
        click.echo(f"\n### {scheme}, {encoder}\n")
        click.echo(_markdown(_table(part).reset_index(names="model"), 3))
        click.echo()
        click.echo(_markdown(_comparisons(part), 4))


def _markdown(table: pd.DataFrame, digits: int) -> str:
    lines = [list(table.columns), ["---"] * table.shape[1]]
    lines += [[_text(value, digits) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object, digits: int) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def _table(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean PCC of each model on each section and over all, with interval, share of the ceiling and further metrics."""
    rng = np.random.default_rng(0)
    rows = {}
    for model, part in scores.groupby("model", sort=False):
        raw = _pearson(part).groupby(["seed", "section"])["value"].mean().unstack("section")
        if raw.isna().all(axis=None):
            continue
        of_sections = raw.mean()
        drawn = of_sections.to_numpy()[rng.integers(len(of_sections), size=(10_000, len(of_sections)))].mean(axis=1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        rows[model] = {
            **of_sections.to_dict(),
            "mean": of_sections.mean(),
            "95 % interval": f"{low:.3f} to {high:.3f}",
            "sd over seeds": raw.mean(axis=1).std() if len(raw) > 1 else np.nan,
            "of ceiling": of_sections.mean() / _ceiling(scores),
            "smoothed truth": _pearson(part, "smoothed").groupby("section")["value"].mean().mean(),
            "seeds": len(raw),
            "s a fold": part["seconds"].mean() if model not in BASELINE_TITLES.values() else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("mean", ascending=False)


def _ceiling(scores: pd.DataFrame) -> float:
    ceilings = scores[(scores["metric"] == "ceiling") & (scores["truth"] == "raw")]
    return ceilings.groupby("section")["value"].mean().mean()


def _comparisons(scores: pd.DataFrame) -> pd.DataFrame:
    """The context network against every other model, paired over genes and sections."""
    rows = []
    averaged = scores.groupby(["section", "gene", "model", "truth", "metric"], sort=False)["value"].mean().reset_index()
    for other in averaged["model"].unique():
        if other in (CONTEXT, BASELINE_TITLES["training_mean"]):
            continue
        row = nh.tl.compare(averaged, CONTEXT, other).loc["all"]
        rows.append(
            {
                "context minus": other,
                **row[["difference", "low", "high", "improved"]],
                "p_value": "< 0.0001" if row["p_value"] < 1e-4 else f"{row['p_value']:.4f}",
                "n_sections": int(row["n_sections"]),
                "n_genes": int(row["n_genes"]),
            }
        )
    return pd.DataFrame(rows)


@main.command()
@click.option("--device", default="auto", show_default=True)
def calibrate(device: str) -> None:
    """Train without each section, and count how many of its measured values lie within the predicted intervals."""
    nh.settings.verbosity = "warning"
    rows = []
    for name, sdata, held_out, model in _without_each_group(tuple(SCHEMES), device=device):
        nh.tl.predict(sdata, model, sections=held_out, overwrite=True, device=device)
        rows.append({"scheme": name, "held out": " ".join(held_out), **_coverage(sdata, held_out)})
    click.echo(_markdown(pd.DataFrame(rows), 3))


@main.command()
@click.option("--encoder", default="tf_efficientnet_lite0", show_default=True)
@click.option("--encoder-weights", default="pretrained", show_default=True, help="'pretrained', or a file.")
def integers(encoder: str, encoder_weights: str) -> None:
    """Train without each section, and predict it in 8-bit integers too: scores of both, and how they correlate."""
    nh.settings.verbosity = "warning"
    rows = []
    schemes = tuple(name for name in SCHEMES if "section" in name)
    settings = {"encoder": encoder, "encoder_weights": encoder_weights, "device": "cpu"}
    for name, sdata, held_out, model in _without_each_group(schemes, **settings):
        values, scores = {}, {}
        for precision in ("32", "int8"):
            nh.tl.predict(sdata, model, precision=precision, sections=held_out, overwrite=True, device="cpu")
            values[precision] = _predicted(sdata, held_out)
            scores[f"PCC, {precision}"] = _raw_pearson(sdata, held_out)
        agreement = np.median([np.corrcoef(*pair)[0, 1] for pair in zip(*values.values(), strict=True)])
        row = {"scheme": name, "held out": " ".join(held_out), **scores, "correlation of the two": float(agreement)}
        rows.append(row)
    click.echo(_markdown(pd.DataFrame(rows), 4))


def _without_each_group(
    schemes: tuple[str, ...], **settings: Any
) -> Iterator[tuple[str, SpatialData, list[str], nh.models.Model]]:
    """Context networks that were trained without each group, with the scheme, the sections and what was left out."""
    for name in schemes:
        groups = SCHEMES[name].groups
        sdata = SCHEMES[name].read(list(groups))
        for group in sorted(set(groups.values())):
            held_out = [section for section, of in groups.items() if of == group]
            rest = [section for section in groups if section not in held_out]
            yield name, sdata, held_out, nh.tl.train(sdata, genes=N_GENES, sections=rest, groups=groups, **settings)


def _coverage(sdata: SpatialData, sections: list[str]) -> dict[str, float]:
    """Share of the measured values in intervals of a normal distribution, over genes and spots."""
    table = sdata["table"][sdata["table"].obs["region"].isin(sections).to_numpy()]
    totals = np.asarray(table.X.sum(axis=1)).ravel()
    table = table[totals > 0, table.var["nh2st_predicted"].to_numpy()]
    counts = table.X.toarray() / totals[totals > 0, None]
    predicted, std = (_dense(table.layers[layer]) for layer in ("nh2st", "nh2st_std"))
    z = (np.log1p(1e4 * counts) - predicted) / std
    z = z[np.isfinite(z)]
    within = {f"within {share:.0%} interval": float((np.abs(z) < norm.ppf((1 + share) / 2)).mean()) for share in SHARES}
    return {**within, "mean of z": float(z.mean()), "sd of z": float(z.std())}


def _predicted(sdata: SpatialData, sections: list[str]) -> np.ndarray:
    """Predicted values (genes, spots) of the panel."""
    table = sdata["table"][sdata["table"].obs["region"].isin(sections).to_numpy()]
    return _dense(table[:, table.var["nh2st_predicted"].to_numpy()].layers["nh2st"]).T


def _raw_pearson(sdata: SpatialData, sections: list[str]) -> float:
    """Mean over genes of the correlation of the predictions with raw truth."""
    scores = _pearson(nh.tl.evaluate(sdata, sections=sections))
    return float(scores.loc[(scores["model"] == "model") & (scores["gene"] != ""), "value"].mean())


def _dense(values: Any) -> np.ndarray:
    return values.toarray() if issparse(values) else np.asarray(values)


if __name__ == "__main__":
    main()

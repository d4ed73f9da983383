"""The model that training starts from: a new network, or a trained one to be fine-tuned."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nh2st._expression import Target, check_genes, choose_genes, read_counts
from nh2st._keys import ENCODER, GENE_FLAG, N_GENES
from nh2st._sections import NATIVE, Section, tables_of
from nh2st._settings import logger
from nh2st.models import Model
from nh2st.models._file import SUFFIX, read_file
from nh2st.nn import Encoder, Network, NetworkConfig, create_network
from nh2st.tl._compatibility._panel_check import check_panel


def new_network(variant: str, values: Mapping[str, Any], encoder_weights: str | Path | None, seed: int) -> Network:
    """Build an untrained network of a variant from fields of its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_network(NetworkConfig.for_variant(variant, **values), encoder_weights=encoder_weights)


def trained_on(encoder_weights: str | Path | None) -> list[str]:
    """Fingerprints of the sections that an encoder was trained on, where it is taken from a model of this package."""
    file = Path(encoder_weights or "")
    if file.suffix != SUFFIX or not file.is_file():
        return []
    try:
        header, _ = read_file(file)
    except ValueError:
        return []
    return [str(one) for one in header.get("provenance", {}).get("fingerprints", [])]


def check_likelihood(network: Network, target: Target) -> None:
    """Refuse count likelihoods of a target that is no function of a spot's own counts."""
    if network.config.likelihood != "mse" and target.smoothed:
        msg = (
            f"The likelihood {network.config.likelihood!r} is that of a spot's counts, but the target {target.kind!r} "
            "averages over neighbouring spots. Use target='default', or likelihood='mse'."
        )
        raise ValueError(msg)


def panel_of(sections: Sequence[Section], genes: int | Sequence[str] | None, layer: str | None) -> list[str]:
    tables = tables_of(sections)
    if genes is None and all(GENE_FLAG in table.var for table in tables):
        flagged = [table.var_names[table.var[GENE_FLAG].to_numpy(dtype=bool)] for table in tables]
        if any(set(names) != set(flagged[0]) for names in flagged[1:]):
            msg = f"var[{GENE_FLAG!r}] differs between the tables. Call `nh.pp.select_genes` on all, or give `genes=`."
            raise ValueError(msg)
        if not len(flagged[0]):
            msg = f"var[{GENE_FLAG!r}] flags no gene. Call `nh.pp.select_genes`, or give `genes=`."
            raise ValueError(msg)
        logger.info("The panel is the %d genes of var[%r].", len(flagged[0]), GENE_FLAG)
        return check_genes(tables, list(flagged[0]))
    if genes is not None and not isinstance(genes, int | np.integer):
        return check_genes(tables, genes)
    common = set.intersection(*(set(table.var_names) for table in tables))
    counts = [read_counts(section, layer) for section in sections]
    return choose_genes(counts, min(N_GENES, len(common)) if genes is None else int(genes))


def check_no_contradiction(source: Model, **given: Any) -> None:
    """Refuse arguments beside `init_from` that the model has settled already."""
    config = source.config.to_dict()
    given_network = (given["network"] or {}).items()
    network = {name: list(value) if isinstance(value, tuple) else value for name, value in given_network}
    settled = {
        "genes": given["genes"] is not None and given["genes"] != source.genes,
        "network": config | network != config,
        "variant": given["variant"] not in (None, source.config.variant),
        "encoder": given["encoder"] not in (ENCODER, source.config.encoder),
        "target": given["target"] not in ("default", source.target.kind),
        "mpp": given["mpp"] is not None and (given["mpp"] == NATIVE) != (source.patch_um is None),
    }
    if wrong := [name for name, contradicts in settled.items() if contradicts]:
        msg = f"init_from= settles {', '.join(f'{name}=' for name in wrong)}: leave it out, or train a new model."
        raise ValueError(msg)


def check_tables(sections: Sequence[Section], source: Model) -> None:
    """Refuse tables that lack genes of the model to be fine-tuned."""
    for table in tables_of(sections):
        check_panel(table, source)
    check_genes(tables_of(sections), source.genes)


def copy_of(model: Model) -> Model:
    return Model(
        network=copy.deepcopy(model.network),
        genes=list(model.genes),
        target=model.target,
        patch_um=model.patch_um,
        baselines=copy.deepcopy(model.baselines),
    )


def baseline_encoder(start: Model) -> Encoder:
    """The encoder as it is before training; that of the earlier baselines where a model is fine-tuned."""
    if start.baselines is not None and start.baselines.encoder is not None:
        return start.baselines.encoder
    return copy.deepcopy(start.network.encoder).eval()

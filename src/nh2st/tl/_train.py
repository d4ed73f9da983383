"""Training on the user's own sections."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nh2st._keys import GENE_FLAG, N_GENES, PATCH_PX, PATCH_UM
from nh2st._scale import NATIVE, Mpp, patch_windows, resolve_mpp
from nh2st._sections import ImageData, Section, find_sections, tables_of
from nh2st._settings import logger
from nh2st.models import Model, load
from nh2st.nn import NH2ST, NetworkConfig
from nh2st.pp._genes import choose_genes
from nh2st.pp._target import Target
from nh2st.tl._arguments import at_least_one, not_negative, positive
from nh2st.tl._baselines import fit_baselines
from nh2st.tl._device import Precision, resolve_device, resolve_precision
from nh2st.tl._prepare import TrainingSpots, prepare
from nh2st.tl._record import record_training, training_provenance
from nh2st.tl._split import Split, groups_of, validation_split

_ENCODER = "tf_efficientnet_lite0"


def train(
    data: ImageData,
    *,
    genes: int | Sequence[str] | None = None,
    target: Literal["default", "paper"] = "default",
    encoder: str = _ENCODER,
    encoder_weights: str | Path | None = "pretrained",
    network: Mapping[str, Any] | None = None,
    groups: str | Mapping[str, str] | None = None,
    patch_um: float = PATCH_UM,
    patch_px: int = PATCH_PX,
    mpp: Mpp = None,
    max_epochs: int = 50,
    batch_size: int = 16,
    learning_rate: float = 5e-4,
    stain_jitter: float = 0.15,
    patience: int = 10,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    init_from: Model | str | Path | None = None,
    resume_from: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    layer: str | None = None,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    table_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> Model:
    """Train NH2ST on sections with measured expression.

    Steps that were not done before are done with their defaults, and said in the log: genes are chosen, expression is
    normalised, neighbourhoods are built, patches are cut. The data are touched only at the end, when provenance is
    written.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them, with images, spots and counts.
    genes
        Panel: a list of genes, or how many to choose by mean count. Where absent, the genes flagged by
        :func:`nh2st.pp.select_genes` in ``var["nh2st_gene"]``, else 250 (all where there are fewer).
    target
        What to predict: ``"default"`` is the natural log1p of counts scaled to 10,000 over all genes of the table,
        ``"paper"`` the target of the publication (see :func:`nh2st.pp.normalize`).
    encoder
        Name of a convolutional image encoder of timm.
    encoder_weights
        ``"pretrained"``, a local weights file, or `None` for a random start.
    network
        Further settings of :class:`nh2st.nn.NetworkConfig`, such as ``{"dropout": 0.2, "neighbor_weight": 0}``.
    groups
        Donors, which validation never divides: a column of ``obs``, or a dictionary from section to donor. Where
        absent, ``obs["donor"]``, else every section is a donor of its own.
    patch_um
        Side of the patches in micrometres.
    patch_px
        Side of the patches in pixels, after resampling.
    mpp
        Micrometres per pixel of all images, or ``"native"`` for patches of `patch_px` plain pixels. Where absent, the
        scale that is known for each image (see :func:`nh2st.pp.estimate_mpp`).
    max_epochs
        Epochs at most.
    batch_size
        Spots per step.
    learning_rate
        Highest rate of AdamW, reached after a seventh of the epochs and then lowered towards 0 along a cosine.
    stain_jitter
        Spread of the random change of stain in training: the optical density of each colour of a patch is multiplied by
        the exponential of a normal deviate with this standard deviation. 0 turns it off.
    patience
        Epochs without a better validation score (mean PCC per gene) after which training stops.
    seed
        The same seed gives the same model on a CPU.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.
    precision
        ``"32"``, ``"bf16"``, or ``"auto"`` for the faster of the two on the device.
    init_from
        A model, or its file, to fine-tune: its panel, target, patch size and network are used.
    resume_from
        ``last.ckpt`` of an interrupted run, to be continued with the same arguments.
    checkpoint_dir
        Folder for ``best.safetensors`` (the best model so far) and ``last.ckpt``; a temporary folder, named in the log,
        where absent.
    layer
        Layer with the counts; ``layers["counts"]`` where there is one, else ``X``.
    sections
        Names of the sections to train on; all where absent.
    spots
        Boolean column of ``obs`` that says which spots are used; ``in_tissue`` where there is one.
    table_key, image_key, shapes_key, coordinate_system
        Which elements to use where several fit.

    Returns
    -------
    The model with the best validation score. Written to the tables: ``uns["nh2st"]["training"]``, with panel, target,
    settings and history.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the input does not fit together; all of it is checked before long work starts.

    Notes
    -----
    Only the target patch is used for prediction; the neighbourhood shapes the encoder through a contrastive loss
    (NH2ST, MICCAI 2025, arXiv:2506.23827). Batches consist of compact clusters of spots from several sections, so that
    a patch that several spots need is encoded once.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(n_sections=2)
    >>> model = nh.tl.train(sdata, genes=20, patch_px=64, max_epochs=1)  # doctest: +SKIP
    """
    from nh2st.tl._fit import Schedule, check_same_run, checkpoint_folder, fit

    torch_device = resolve_device(device)
    schedule = Schedule(
        max_epochs=at_least_one("max_epochs", max_epochs),
        batch_size=at_least_one("batch_size", batch_size),
        learning_rate=positive("learning_rate", learning_rate),
        stain_jitter=not_negative("stain_jitter", stain_jitter),
        patience=at_least_one("patience", patience),
        seed=seed,
        device=torch_device,
        precision=resolve_precision(precision, torch_device),
    )
    found = find_sections(
        data,
        sections=sections,
        spots=spots,
        table_key=table_key,
        image_key=image_key,
        shapes_key=shapes_key,
        coordinate_system=coordinate_system,
    )
    source = load(init_from) if isinstance(init_from, str | Path) else init_from
    if source is None:
        panel = _panel(found, genes, layer)
        net = _new_network(len(panel), encoder, encoder_weights, patch_px, network, seed)
        size = None if mpp == NATIVE else patch_um
        start = Model(network=net, genes=panel, target=Target.named(target), patch_um=size)
    else:
        _check_no_contradiction(source, genes=genes, network=network, encoder=encoder, target=target, mpp=mpp)
        choose_genes(found, genes=source.genes)
        start = _copy_of(source)
    scale: Mpp = "native" if start.patch_um is None else mpp
    scales = [resolve_mpp(one, scale) for one in found]
    windows = [
        patch_windows(one, patch_um=start.patch_um or patch_um, patch_px=start.patch_px, mpp=um)
        for one, um in zip(found, scales, strict=True)
    ]
    labels = groups_of(found, groups)
    split = validation_split(found, labels, seed)
    folder = checkpoint_folder(checkpoint_dir, resume_from)
    start.provenance = training_provenance(
        found,
        labels,
        scales,
        validation=split.description,
        seed=seed,
        max_epochs=max_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        stain_jitter=stain_jitter,
        encoder_weights=str(encoder_weights),
        init_from="" if source is None else source.name,
    )
    if source is not None:
        start.provenance["fingerprints"] += source.provenance.get("fingerprints", [])
    if resume_from is not None:
        check_same_run(start, folder)
    prepared = prepare(found, windows, start.genes, start.target, layer)
    _start_from_data(start, prepared, split, torch_device, new=source is None)
    model = fit(start, prepared, split, schedule, folder, resume_from)
    record_training(data, found, model)
    return model


def _new_network(
    n_genes: int,
    encoder: str,
    encoder_weights: str | Path | None,
    patch_px: int,
    settings: Mapping[str, Any] | None,
    seed: int,
) -> NH2ST:
    values = {"n_genes": n_genes, "encoder": encoder, "patch_px": patch_px, **(settings or {})}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NH2ST(NetworkConfig.from_dict(values), encoder_weights=encoder_weights)


def _panel(sections: Sequence[Section], genes: int | Sequence[str] | None, layer: str | None) -> list[str]:
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
        return choose_genes(sections, genes=list(flagged[0]))
    if genes is not None and not isinstance(genes, int | np.integer):
        return choose_genes(sections, genes=genes)
    common = set.intersection(*(set(table.var_names) for table in tables))
    return choose_genes(sections, min(N_GENES, len(common)) if genes is None else int(genes), layer=layer)


def _check_no_contradiction(source: Model, **given: Any) -> None:
    """Refuse arguments beside `init_from` that the model has settled already."""
    settled = {
        "genes": given["genes"] is not None and given["genes"] != source.genes,
        "network": any(getattr(source.config, name, None) != value for name, value in (given["network"] or {}).items()),
        "encoder": given["encoder"] not in (_ENCODER, source.config.encoder),
        "target": given["target"] not in ("default", source.target.kind),
        "mpp": given["mpp"] is not None and (given["mpp"] == NATIVE) != (source.patch_um is None),
    }
    if wrong := [name for name, contradicts in settled.items() if contradicts]:
        msg = f"init_from= settles {', '.join(f'{name}=' for name in wrong)}: leave it out, or train a new model."
        raise ValueError(msg)


def _copy_of(model: Model) -> Model:
    return Model(
        network=copy.deepcopy(model.network),
        genes=list(model.genes),
        target=model.target,
        patch_um=model.patch_um,
        baselines=copy.deepcopy(model.baselines),
    )


def _start_from_data(start: Model, spots: TrainingSpots, split: Split, device: torch.device, *, new: bool) -> None:
    """Fit the baselines, and let a new network start from the mean of its training spots."""
    frozen = start.baselines.encoder if start.baselines else copy.deepcopy(start.network.encoder)
    start.baselines = fit_baselines(spots, frozen, device)
    if new:
        start.network.set_output_mean(np.asarray(spots.expression[~split.validation].mean(axis=0)))

"""Training on the user's own sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nh2st._device import Precision
from nh2st._docs import documented
from nh2st._keys import ENCODER, PATCH_PX, PATCH_UM
from nh2st._sections import ImageData, ImageKey, Mpp, Selection, find_sections
from nh2st.models import Model, load
from nh2st.tl._prediction._prediction_records import record_training
from nh2st.tl._training._hardware import Devices, resolve_place
from nh2st.tl._training._session import TrainingSession
from nh2st.tl._training._starting_model import starting_model
from nh2st.tl._training._training_data import TrainingData
from nh2st.tl._training._training_settings import settings_of
from nh2st.tl._training._validation_split import groups_of


@documented
def train(
    data: ImageData,
    *,
    genes: int | Sequence[str] | None = None,
    target: Literal["default", "paper"] = "default",
    variant: str | None = None,
    encoder: str = ENCODER,
    encoder_weights: str | Path | None = "pretrained",
    network: Mapping[str, Any] | None = None,
    fine_tune: Literal["all", "none"] | int | None = None,
    groups: str | Mapping[str, str] | None = None,
    patch_um: float = PATCH_UM,
    patch_px: int = PATCH_PX,
    mpp: Mpp = None,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    stain_jitter: float = 0.15,
    patience: int = 10,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    devices: Devices = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
    init_from: Model | str | Path | None = None,
    resume_from: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    layer: str | None = None,
    table_key: str | None = None,
    image_key: ImageKey = None,
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
        Panel: a list of genes (named as in ``var_names`` or as in another column of ``var``, such as ``gene_ids``), or
        how many to choose by mean count. Where absent, the genes flagged by
        :func:`nh2st.pp.select_genes` in ``var["nh2st_gene"]``, else 250 (all where there are fewer).
    target
        What to predict: ``"default"`` is the natural log1p of counts scaled to 10,000 over all genes of the table,
        ``"paper"`` the target of the publication (see :func:`nh2st.pp.normalize`).
    variant
        Which network: ``"context"`` (:class:`nh2st.nn.ContextNetwork`), an ensemble that predicts from a spot and its
        neighbours with an encoder that stays as it is, or ``"paper"`` (:class:`nh2st.nn.NH2ST`), the published one.
        Baselines can be trained too, such as ``"linear_head"`` or ``"ridge_context"``, which has no epochs.
        Where absent, that of `init_from`, else ``"context"``.
    encoder
        Name of an image encoder (:func:`nh2st.models.encoders`); for ``"paper"`` a convolutional one.
    encoder_weights
        ``"pretrained"``, a local file of weights or of a model that was saved by this package, whose encoder is taken,
        or `None` for a random start.
    network
        Further settings of :class:`nh2st.nn.NetworkConfig`, such as ``{"dropout": 0.2, "query_weight": 0.5}``.
    fine_tune
        Which part of the encoder is trained: ``"all"`` (default of ``"paper"``), ``"none"`` (the only one for
        ``"context"``), or its last blocks or stages, by their number. With ``"none"`` it runs once over all patches,
        without augmentation, after which epochs are fast.
    groups
        Donors, which validation never divides: a column of ``obs``, or a dictionary from section to donor. Where
        absent, ``obs["donor"]``, else every section is a donor of its own.
    patch_um
        Side of the patches in micrometres.
    patch_px
        Side of the patches in pixels, after resampling.
    %(mpp)s
    max_epochs
        Epochs at most; where absent, 30 for ``"context"``, which uses all of them, and 50 for ``"paper"``.
    batch_size
        Spots per step and device; where absent, 64 for ``"context"`` and 16 for ``"paper"``. Halved once, with a
        warning, where the memory of a single GPU does not suffice.
    learning_rate
        Highest rate of AdamW; where absent, 1e-3 for ``"context"`` and 5e-4 for ``"paper"``. It is reached after a
        seventh of the epochs and then lowered towards 0 along a cosine.
    stain_jitter
        Spread of the random change of stain while the encoder is trained: the amounts of hematoxylin, eosin and a
        residual dye in a patch are each multiplied by the exponential of a normal deviate with this standard deviation.
        0 turns it off.
    patience
        Epochs without a better validation score (mean PCC per gene) after which training of ``"paper"`` stops.
    seed
        The same seed gives the same model on a CPU.
    %(device)s
    precision
        ``"32"``, ``"bf16"``, or ``"auto"`` for the faster of the two on the device.
    compile
        Compile the network for training with :func:`torch.compile`, which pays on a GPU and in long runs. Where that
        fails, training goes on without it.
    devices
        How many devices of the kind, their numbers, such as ``[0, 2]``, or ``"auto"`` for all. Each has a process of
        its own, which runs the whole script and returns the same model.
    num_nodes
        How many machines, each with that many devices. The script is started on them by ``srun`` or ``torchrun``.
    strategy
        Strategy of Lightning that joins the processes: ``"auto"`` or ``"ddp"``.
    init_from
        A model, or its file, to fine-tune: its panel, target, patch size and network are used. Where its training was
        on another assay, species or scale, this is said in a warning.
    resume_from
        ``last.ckpt`` of an interrupted run, to be continued with the same arguments.
    checkpoint_dir
        Folder for ``best.safetensors`` (the best model so far) and ``last.ckpt``. Where absent, a temporary folder,
        named in the log, which is removed when training is done.
    %(sections)s
    %(spots)s
    %(layer)s
    %(elements)s

    Returns
    -------
    The model: for ``"paper"`` that with the best validation score, for ``"context"`` the one trained on all spots.
    Written to the tables: ``uns["nh2st"]["training"]``, with panel, target,
    settings and history.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the input does not fit together; all of it is checked before long work starts.
    RuntimeError
        If a device is not there.
    FloatingPointError
        If training diverges; the message names the best model so far, if there is one.
    torch.OutOfMemoryError
        If the memory of a GPU does not suffice for the batches, nor for half of them.

    Notes
    -----
    ``"context"``: spots that are held out for validation give the history and the size of the errors, on which the
    predicted standard deviations rest; the network is then trained on all spots.

    ``"paper"``: only the target patch is used for prediction; the neighbourhood shapes the encoder through a
    contrastive loss (NH2ST, MICCAI 2025, arXiv:2506.23827). Batches consist of compact clusters of spots from several
    sections. While the encoder is trained, the neighbours of a spot are those in its batch, so that a patch is encoded
    once an epoch.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(n_sections=2)
    >>> model = nh.tl.train(sdata, genes=20, patch_px=64, max_epochs=1)  # doctest: +SKIP
    """
    # Most of the arguments are settings, which travel together.
    given = locals()
    from nh2st.tl._training._trainer import only_rank_zero_speaks, this_process

    source = load(init_from) if isinstance(init_from, str | Path) else init_from
    settings = settings_of(given, source)
    place = resolve_place(device, precision, devices, num_nodes, strategy)
    process = this_process(place)
    with only_rank_zero_speaks(process.rank):
        found = find_sections(data, Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system))
        training = TrainingData(found, groups_of(found, groups), layer, process.device, place.precision)
        start = starting_model(training, settings, genes, source)
        model = TrainingSession(training, settings, source, place, process).train(start, checkpoint_dir, resume_from)
        record_training(data, found, model)
    return model

"""Import of checkpoints that were trained with the code the authors of NH2ST released."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nh2st._expression import Target
from nh2st._settings import logger
from nh2st._torch import read_tensors
from nh2st.models._model import Model
from nh2st.nn import NH2ST
from nh2st.nn._released_weights import released_config, released_state_dict


def from_released(path: str | Path, *, genes: Sequence[str]) -> Model:
    """Import a checkpoint of the code that the authors of NH2ST released (MICCAI 2025, arXiv:2506.23827).

    Only tensors are read from the file: what is pickled in it is neither run nor imported.

    Parameters
    ----------
    path
        Lightning checkpoint (``.ckpt``), or a file of its state dict (PyTorch or safetensors).
    genes
        The genes that it was trained on, in that order; the file does not name them.

    Returns
    -------
    The model, on the CPU: the network as it was released, for patches in plain pixels, with the target that its code
    trained on (``"paper"``). Of what it was trained on nothing is known.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no such checkpoint, is damaged, or predicts another number of genes.

    Notes
    -----
    The number of attention heads is not in the weights; it changes nothing, as each attention is over one token. The
    released code cuts patches of 224 px at the scale of the slide, whatever that is: predict slides of the scale that
    it was trained on.

    Examples
    --------
    >>> import nh2st as nh
    >>> model = nh.models.from_released("last.ckpt", genes=panel)  # doctest: +SKIP
    >>> nh.tl.predict(sdata, model)  # doctest: +SKIP
    """
    path = Path(path)
    tensors = read_tensors(path)
    try:
        state = released_state_dict(tensors)
        config = released_config(tensors)
    except ValueError as error:
        msg = f"{path} cannot be imported. {error}"
        raise ValueError(msg) from error
    panel = _checked(genes, config.n_genes, path)
    network = NH2ST(config, encoder_weights=None)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        msg = f"{path} cannot be imported: its weights do not fit together ({' '.join(str(error).split())})."
        raise ValueError(msg) from error
    logger.info("imported %s: %d genes, patches of %d px.", path.name, config.n_genes, config.patch_px)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Model(
        network=network.eval(),
        genes=panel,
        target=Target.named("paper"),
        patch_um=None,
        provenance={"imported_from": path.name, "imported_sha256": digest},
    )


def _checked(genes: Sequence[str], n_genes: int, path: Path) -> list[str]:
    if isinstance(genes, str):
        msg = f"genes must be the {n_genes} names in order, not the text {genes!r}."
        raise ValueError(msg)
    panel = [str(gene) for gene in genes]
    if len(panel) != n_genes:
        msg = f"{path} predicts {n_genes} genes, but genes= names {len(panel)}. Give those of its training, in order."
        raise ValueError(msg)
    if repeated := sorted({gene for gene in panel if panel.count(gene) > 1}):
        msg = f"genes= names some genes more than once: {', '.join(repeated[:5])}."
        raise ValueError(msg)
    return panel

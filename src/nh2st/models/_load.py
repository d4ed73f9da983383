"""Models from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from nh2st.models._baselines import Baselines
from nh2st.models._file import read_file
from nh2st.models._model import Model
from nh2st.nn import NH2ST, Encoder, NetworkConfig, create_encoder
from nh2st.pp._target import Target


def load(path: str | Path) -> Model:
    """Load a model from a file written by :meth:`nh2st.models.Model.save`.

    Parameters
    ----------
    path
        The safetensors file.

    Returns
    -------
    The model, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no model of this package, is damaged, or was written by a newer format.

    Examples
    --------
    >>> import nh2st as nh
    >>> model = nh.models.load("model.safetensors")  # doctest: +SKIP
    """
    path = Path(path)
    header, tensors = read_file(path)
    try:
        return _build(header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        msg = f"{path} is damaged: its header and weights do not fit together ({reason})."
        raise ValueError(msg) from error


def _build(header: dict[str, Any], tensors: dict[str, Tensor]) -> Model:
    config = NetworkConfig.from_dict(header["config"])
    network = NH2ST(config, encoder_weights=None)
    network.load_state_dict(_under("network.", tensors))
    network.eval()
    if len(header["genes"]) != config.n_genes:
        msg = f"{len(header['genes'])} genes in the header, {config.n_genes} outputs"
        raise ValueError(msg)
    return Model(
        network=network,
        genes=[str(gene) for gene in header["genes"]],
        target=Target.from_dict(header["target"]),
        patch_um=header["patch_um"],
        baselines=_baselines(config.encoder, tensors) if header["baselines"] else None,
        history=header["history"],
        provenance=header["provenance"],
    )


def _baselines(encoder_name: str, tensors: dict[str, Tensor]) -> Baselines:
    encoder: Encoder = create_encoder(encoder_name, weights=None)
    encoder.load_state_dict(_under("baselines.encoder.", tensors))
    encoder.eval()
    return Baselines(
        mean=tensors["baselines.mean"],
        coefficients=tensors["baselines.coefficients"],
        intercept=tensors["baselines.intercept"],
        encoder=encoder,
    )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

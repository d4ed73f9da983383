"""Model files: safetensors with a JSON header. Loading reads numbers and text only and never executes code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nh2st._keys import NAMESPACE
from nh2st.models._baselines import Baselines
from nh2st.models._model import Model
from nh2st.nn import NH2ST, Encoder, NetworkConfig, create_encoder
from nh2st.pp._target import Target

FORMAT_VERSION = 1


def save(model: Model, path: Path) -> Path:
    """Write the model under a temporary name beside `path`, then rename."""
    header = json.dumps({"format": FORMAT_VERSION, **model.header()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.tensors(), temporary, metadata={NAMESPACE: header})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        msg = f"The model could not be written to {path}: {error}. Free space there or name another file."
        raise OSError(msg) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return path


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
    if not path.is_file():
        msg = f"There is no model file {path}."
        raise FileNotFoundError(msg)
    header, tensors = _read(path)
    try:
        return _build(header, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        msg = f"{path} is damaged: its header and weights do not fit together ({reason})."
        raise ValueError(msg) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        msg = (
            f"{path} cannot be read as a safetensors file ({error}). It may be truncated, or no model at all, "
            "such as the error page of a download."
        )
        raise ValueError(msg) from error
    if NAMESPACE not in metadata:
        msg = f"{path} is a safetensors file, but not a model saved by nh2st."
        raise ValueError(msg)
    try:
        header = json.loads(metadata[NAMESPACE])
        version = int(header["format"])
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path} is damaged: its header is not valid ({error})."
        raise ValueError(msg) from error
    if version > FORMAT_VERSION:
        msg = f"{path} has model format {version}; this version of nh2st reads up to {FORMAT_VERSION}. Update nh2st."
        raise ValueError(msg)
    return header, tensors


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

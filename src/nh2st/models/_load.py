"""Models from their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nh2st._estimators import Baselines, Estimator, estimator_named
from nh2st._expression import Target
from nh2st._settings import logger
from nh2st.models._file import read_file
from nh2st.models._model import Model, not_finite, under
from nh2st.models._registry import find_file, is_name, registry
from nh2st.nn import Encoder, NetworkConfig, create_encoder

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "config": dict,
    "genes": list,
    "target": dict,
    "patch_um": (float, int, type(None)),
    "baselines": bool,
    "shared_encoder": bool,
    "inference_only": bool,
    "history": list,
    "provenance": dict,
}
_DEFAULTS = {"shared_encoder": False, "inference_only": False}
_VERSION = "format"


def load(name_or_path: str | Path) -> Model:
    """Load a pretrained model by its name, or a model from a file written by :meth:`nh2st.models.Model.save`.

    Parameters
    ----------
    name_or_path
        A name of :func:`nh2st.models.available`, or a safetensors file. A name stands for the pretrained model even
        where there is a file of that name; ``"./name"`` or a :class:`~pathlib.Path` stands for the file.

    Returns
    -------
    The model, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is neither such a file nor such a name, or a pretrained model is neither on this machine nor at a known
        address.
    ValueError
        If the file is no model of this package, is damaged, or was written by a newer format.
    ConnectionError, OSError
        If a pretrained model cannot be downloaded, or the cache cannot be written to.

    Notes
    -----
    The file of a pretrained model is taken from the folder ``weights`` of ``nh2st.settings.cache_dir``, else from a
    checkout that the package is run from, else from ``nh2st.settings.weights_url``, and put into the cache. It is used
    only if its sha256 is that of the registry.

    Examples
    --------
    >>> import nh2st as nh
    >>> model = nh.models.load("model.safetensors")  # doctest: +SKIP
    """
    path = _path_of(name_or_path)
    header, tensors = read_file(path)
    if wrong := not_finite(tensors):
        msg = (
            f"{path} cannot be used: its weights hold NaN or infinite values, first in {wrong!r}. The training that it "
            "comes from has diverged, or the file is damaged."
        )
        raise ValueError(msg)
    try:
        with _same_start():
            return _build(header, tensors, path)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        msg = (
            f"{path} cannot be loaded: its header and weights do not fit together, or not with the installed versions "
            f"of nh2st and timm ({reason})."
        )
        raise ValueError(msg) from error


def _path_of(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if not isinstance(name_or_path, str) or not is_name(name_or_path):
        return path
    models = registry()
    if name_or_path in models:
        if path.is_file():
            logger.warning(
                "%r is loaded as the pretrained model of this name; the file in the current folder is './%s'.",
                name_or_path,
                name_or_path,
            )
        return find_file(models[name_or_path])
    if not path.is_file():
        msg = f"There is no model file {path}, and no pretrained model of this name: {', '.join(models) or 'none yet'}."
        raise FileNotFoundError(msg)
    return path


def _build(header: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Model:
    header = _checked(header, path)
    estimator = estimator_named(header["config"].get("variant", "paper"))
    config = estimator.config_class.from_dict(header["config"])
    network = _network(estimator, config, under("network.", tensors), inference_only=header["inference_only"])
    if len(header["genes"]) != config.n_genes:
        msg = f"{len(header['genes'])} genes in the header, {config.n_genes} outputs"
        raise ValueError(msg)
    shared = network.encoder if header["shared_encoder"] else None
    return Model(
        network=network,
        genes=[str(gene) for gene in header["genes"]],
        target=Target.from_dict(header["target"]),
        patch_um=header["patch_um"],
        baselines=_baselines(estimator, config, tensors, shared) if header["baselines"] else None,
        history=header["history"],
        provenance=header["provenance"],
        inference_only=header["inference_only"],
    )


def _checked(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """Header whose fields are all there and of the right type; fields that this version does not know are ignored."""
    header = _DEFAULTS | header
    if missing := [name for name in _FIELDS if name not in header]:
        msg = f"the header lacks {', '.join(missing)}"
        raise ValueError(msg)
    if wrong := [name for name, kind in _FIELDS.items() if not isinstance(header[name], kind)]:
        msg = f"the header's {', '.join(wrong)} cannot be read"
        raise ValueError(msg)
    if unknown := sorted(header.keys() - _FIELDS.keys() - {_VERSION}):
        logger.debug("Unknown fields in the header of %s are ignored: %s.", path, ", ".join(unknown))
    return header


def _network(estimator: Estimator, config: NetworkConfig, weights: dict[str, Tensor], *, inference_only: bool) -> Any:
    network = estimator.build(config, None)
    if inference_only:
        state = network.state_dict()
        weights = {name: value for name, value in state.items() if not estimator.predicts(name)} | weights
    network.load_state_dict(weights)
    return network.eval()


def _baselines(
    estimator: Estimator, config: NetworkConfig, tensors: dict[str, Tensor], shared: Encoder | None
) -> Baselines:
    encoder = shared
    if encoder is None and estimator.ridge_has_encoder:
        encoder = create_encoder(config.encoder, weights=None)
        encoder.load_state_dict(under("baselines.encoder.", tensors))
    return Baselines(
        mean=tensors["baselines.mean"],
        coefficients=tensors["baselines.coefficients"],
        intercept=tensors["baselines.intercept"],
        encoder=None if encoder is None else encoder.eval(),
    )


@contextmanager
def _same_start() -> Iterator[None]:
    """Let what a file leaves out start in the same way every time, and the random numbers of the user go on."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield

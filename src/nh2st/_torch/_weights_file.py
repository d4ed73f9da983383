"""Weights out of files of any kind, without running what is in them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nh2st._torch._pickles import read_checkpoint


def read_tensors(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the named tensors of a safetensors or PyTorch file, on the CPU; nothing in the file is executed.

    Parameters
    ----------
    path
        The file. In a PyTorch file, state dicts under ``"state_dict"`` or ``"model"`` are found, and Python objects are
        passed over.

    Returns
    -------
    The tensors by name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no whole file of named tensors.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no file of weights {path}."
        raise FileNotFoundError(msg)
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        msg = (
            f"{path} cannot be read as weights: it is no whole safetensors file ({error}). A download may have been "
            "cut short, or be a web page."
        )
        raise ValueError(msg) from error

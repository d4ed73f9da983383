"""The image encoders that are known by name."""

from __future__ import annotations

import pandas as pd

from nh2st.nn._encoder_table import ENCODERS

_COLUMNS = ("dimension", "mean", "std", "patch_px", "mpp", "licence", "gated", "source", "paper", "note")


def encoders() -> pd.DataFrame:
    """List the image encoders that ``encoder=`` takes by a short name.

    It takes any other name in timm too (``timm.list_models()``), and timm models on the Hugging Face hub
    (``"hf-hub:owner/repository"``).

    Returns
    -------
    One row an encoder: ``dimension`` (number of features), ``mean`` and ``std`` (what inputs in 0..1 are normalised
    with), ``patch_px`` and ``mpp`` (side in pixels, and micrometres per pixel, of the patches that it was trained on;
    NaN where there is no one scale), ``licence`` (of the weights), ``gated`` (whether conditions must be accepted on
    the page of ``source`` before a download), ``source`` (where the weights come from), ``paper``, ``note``.

    Examples
    --------
    >>> import nh2st as nh
    >>> table = nh.models.encoders()
    >>> table.index[~table["gated"]].to_list()
    ['resnet18', 'resnet18-ciga', 'tf_efficientnet_lite0', 'lunit-dino-s16']
    """
    rows = [[getattr(spec, column) for column in _COLUMNS] for spec in ENCODERS.values()]
    index = pd.Index(list(ENCODERS), name="encoder")
    return pd.DataFrame(rows, index=index, columns=list(_COLUMNS)).astype({"mpp": float})

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import nh2st as nh

pytestmark = pytest.mark.skipif("NH2ST_DATA_DIR" not in os.environ, reason="NH2ST_DATA_DIR is not set")


def test_her2st_agrees_with_its_files():
    from nh2st.datasets._spatial_transcriptomics import HER2ST

    sdata = nh.datasets.her2st("B4")
    files = HER2ST.find(Path(os.environ["NH2ST_DATA_DIR"]), "B4")
    table = sdata["table"]
    assert table.shape == (283, 15289)
    counts = pd.read_csv(files["counts"], sep="\t", index_col=0).loc[table.obs["spot"], table.var_names]
    np.testing.assert_array_equal(table.X.toarray(), counts)
    spots = pd.read_csv(files["spots"], sep="\t")
    spots = spots.set_index(spots["x"].astype(str) + "x" + spots["y"].astype(str)).loc[table.obs["spot"]]
    np.testing.assert_array_equal(table.obsm["spatial"], spots[["pixel_x", "pixel_y"]])
    assert sdata.attrs["nh2st"]["mpp"]["B4_image"] == pytest.approx(0.688, abs=2e-3)

    image = sdata["B4_image"]["scale0"].image
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    truth = Image.open(files["image"]).convert("RGB")
    Image.MAX_IMAGE_PIXELS = limit
    assert image.shape == (3, truth.height, truth.width)
    for x, y in table.obsm["spatial"][[0, 100, 282]].astype(int):
        patch = image[:, y - 112 : y + 112, x - 112 : x + 112].values.transpose(1, 2, 0)
        np.testing.assert_array_equal(patch, np.asarray(truth.crop((x - 112, y - 112, x + 112, y + 112))))


def test_bulb_sections():
    sdata = nh.datasets.mouse_olfactory_bulb()
    assert sdata["table"].shape == (379 + 407 + 438, 1000)
    assert sdata["table"].obs["section"].value_counts(sort=False).to_dict() == {"MOB1": 379, "MOB2": 407, "MOB3": 438}
    assert sdata["table"].var_names.str.startswith("ENSMUSG").all()
    np.testing.assert_allclose(list(sdata.attrs["nh2st"]["mpp"].values()), 4.39, atol=0.01)

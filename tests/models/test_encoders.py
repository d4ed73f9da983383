from __future__ import annotations

import numpy as np
import pandas as pd
import timm

import nh2st as nh


def test_encoders_are_listed():
    table = nh.models.encoders()
    assert table.index.name == "encoder"
    assert list(table.index) == [
        *("resnet18", "resnet18-ciga", "tf_efficientnet_lite0", "lunit-dino-s16", "uni", "uni2-h", "virchow2"),
        *("h-optimus-0", "prov-gigapath"),
    ]
    assert table["dimension"].to_dict() == {
        "resnet18": 512,
        "resnet18-ciga": 512,
        "tf_efficientnet_lite0": 1280,
        "lunit-dino-s16": 384,
        "uni": 1024,
        "uni2-h": 1536,
        "virchow2": 2560,
        "h-optimus-0": 1536,
        "prov-gigapath": 1536,
    }
    assert set(table.index[table["gated"]]) == {"uni", "uni2-h", "virchow2", "h-optimus-0", "prov-gigapath"}
    assert table.loc["h-optimus-0", "mean"] == (0.707223, 0.578729, 0.703617)
    assert table.loc["uni", "licence"] == "CC-BY-NC-ND-4.0"
    assert table.loc["uni", "source"] == "hf-hub:MahmoodLab/uni"


def test_every_encoder_says_what_one_must_know():
    table = nh.models.encoders()
    assert (table[["licence", "source", "paper", "note"]].map(len) > 2).all(axis=None)
    assert table["paper"].str.startswith("https://").all()
    assert (table["patch_px"] == 224).all()
    assert table["gated"].dtype == bool
    assert np.isnan(table.loc["resnet18", "mpp"])
    assert table["mpp"].dropna().eq(0.5).all()
    for column in ("mean", "std"):
        assert table[column].map(lambda values: len(values) == 3 and all(0 < value < 1 for value in values)).all()


def test_facts_of_imagenet_encoders_are_those_of_timm():
    table = nh.models.encoders()
    for name in ("resnet18", "tf_efficientnet_lite0"):
        config = timm.get_pretrained_cfg(name)
        assert (config.mean, config.std) == (table.loc[name, "mean"], table.loc[name, "std"])
        assert config.license == table.loc[name, "licence"].lower()


def test_table_is_the_callers_own():
    nh.models.encoders().drop(index="uni", inplace=True)
    assert isinstance(nh.models.encoders().loc["uni"], pd.Series)

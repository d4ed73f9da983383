"""A cross-validation that was interrupted goes on fold by fold, and gives what it would have given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData

import nh2st as nh


@pytest.fixture
def settings(paper_settings: dict[str, Any]) -> dict[str, Any]:
    return paper_settings | {"genes": 3}


@pytest.fixture
def build(make_sdata: Callable[..., SpatialData]) -> Callable[[], SpatialData]:
    return lambda: make_sdata(("A", "B", "C"), side=3)


@pytest.fixture
def cross_validate(tmp_path: Path, settings: dict[str, Any]) -> Callable[..., pd.DataFrame]:
    return lambda sdata, **changed: nh.tl.cross_validate(sdata, folder=tmp_path / "run", **settings | changed)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Count training steps, and stop in one of them."""
    losses, state = nh.nn.NH2ST.losses, {"taken": 0, "last": np.inf}

    def counting(self, *arguments):
        state["taken"] += 1
        if state["taken"] > state["last"]:
            raise KeyboardInterrupt
        return losses(self, *arguments)

    monkeypatch.setattr(nh.nn.NH2ST, "losses", counting)
    return state


def test_finished_folds_are_not_trained_again(build, cross_validate, settings, steps, unchanged, tmp_path):
    whole = build()
    expected = nh.tl.cross_validate(whole, **settings)
    a_fold = steps["taken"] // 3
    sdata = build()
    steps.update(taken=0, last=2 * a_fold)
    with (
        unchanged(sdata),
        pytest.raises(KeyboardInterrupt, match="data are unchanged. 2 of 3 folds were finished.*run"),
    ):
        cross_validate(sdata)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["fold_1.npz", "fold_2.npz", "run.json"]
    steps.update(taken=0, last=np.inf)
    frame = cross_validate(sdata)
    assert steps["taken"] == a_fold
    pd.testing.assert_frame_equal(frame, expected)
    steps.update(taken=0)
    again = build()
    pd.testing.assert_frame_equal(cross_validate(again), expected)
    assert steps["taken"] == 0
    for data in (sdata, again):
        for name, values in whole["table"].layers.items():
            np.testing.assert_array_equal(data["table"].layers[name].toarray(), values.toarray())
        pd.testing.assert_frame_equal(data["table"].obs, whole["table"].obs)
        assert data["table"].uns["nh2st"] == whole["table"].uns["nh2st"]


def test_interruption_without_a_folder(build, settings, steps, unchanged):
    sdata = build()
    steps["last"] = 1
    with unchanged(sdata), pytest.raises(KeyboardInterrupt, match="0 of 3 folds.*none was kept; with `folder=`"):
        nh.tl.cross_validate(sdata, **settings)


def test_folder_of_another_run(build, cross_validate, unchanged):
    sdata = build()
    cross_validate(sdata, baselines=False)
    sdata = build()
    for changed, message in (
        ({"max_epochs": 2}, "another run: max_epochs changed .max_epochs was 1, is 2.*another `folder=`"),
        ({"genes": 4, "target": "paper"}, "another run: target, genes changed"),
        ({"baselines": "2x"}, 'baselines changed .baselines was false, is ."2x".'),
        ({"groups": {"A": "p", "B": "q", "C": "p"}}, "genes, groups changed"),
        ({"sections": ["A", "B"]}, "sections"),
        ({"settings": {"a": {}, "b": {"max_epochs": 2}}}, "settings changed"),
        ({"settings": {"a": {"max_epochs": 2}}}, "settings changed"),
        ({"variant": "context", "network": {"components": 8}}, "variant, network changed"),
    ):
        with unchanged(sdata), pytest.raises(ValueError, match=message):
            cross_validate(sdata, **{"baselines": False} | changed)
    sdata["table"].X[0, 0] += 1
    sdata["B_image"].data = 255 - sdata["B_image"].data
    with pytest.raises(ValueError, match="counts of section 'A', patches of section 'B' changed"):
        cross_validate(sdata, baselines=False)


def test_damaged_files(build, cross_validate, tmp_path):
    cross_validate(build(), baselines=False)
    path = tmp_path / "run" / "fold_2.npz"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="fold_2.npz is damaged .*Delete it, and the fold is computed again"):
        cross_validate(build(), baselines=False)
    path.unlink()
    cross_validate(build(), baselines=False)
    assert path.read_bytes() == content
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is damaged"):
        cross_validate(build(), baselines=False)


def test_folder_that_cannot_be_written(build, cross_validate, unchanged, tmp_path):
    (tmp_path / "run").write_text("")
    sdata = build()
    with unchanged(sdata), pytest.raises(OSError, match="Folds cannot be kept in .*run.*another `folder=`"):
        cross_validate(sdata)

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy.sparse import issparse
from spatialdata import SpatialData, deepcopy

import nh2st as nh
from nh2st._patches import Pyramid

TRAINING = ("A", "B", "C")
HELD_OUT = "D"


def tiny_settings() -> dict[str, Any]:
    """Settings with which training the published network takes a second; a patch lies within what is darkened."""
    return {
        "variant": "paper",
        "encoder": "test_resnet",
        "encoder_weights": None,
        "network": {"width": 32, "heads": 2, "dropout": 0.0},
        "patch_px": 32,
        "patch_um": 32.0,
        "max_epochs": 1,
        "device": "cpu",
    }


def tiny_context() -> dict[str, Any]:
    """Settings with which training the context network takes a second."""
    shape = {"width": 32, "heads": 2, "components": 8, "members": 2, "dropout": 0.0, "input_dropout": 0.0}
    return tiny_settings() | {
        "variant": "context",
        "network": shape,
        "max_epochs": 2,
        "batch_size": 8,
        "learning_rate": 3e-3,
    }


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading pixels fails."""

    def read(*_: Any) -> np.ndarray:
        msg = "pixels were read"
        raise AssertionError(msg)

    for way in ("read", "read_into"):
        monkeypatch.setattr(Pyramid, way, read)


@pytest.fixture
def train() -> Callable[..., nh.models.Model]:
    """`nh.tl.train` with tiny settings, of the published network."""
    return lambda data, **settings: nh.tl.train(data, **tiny_settings() | settings)


@pytest.fixture
def paper_settings() -> dict[str, Any]:
    return tiny_settings()


@pytest.fixture
def context_settings() -> dict[str, Any]:
    return tiny_context()


@pytest.fixture
def train_context() -> Callable[..., nh.models.Model]:
    """`nh.tl.train` with tiny settings, of the context network; `network` changes some of its own."""

    def run(data: Any, *, network: dict[str, Any] | None = None, **settings: Any) -> nh.models.Model:
        tiny = tiny_context()
        return nh.tl.train(data, **tiny | settings | {"network": tiny["network"] | (network or {})})

    return run


@functools.cache
def _trained(build: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    sdata = build((*TRAINING, HELD_OUT), side=6)
    settings = tiny_settings() | {"max_epochs": 16, "batch_size": 8, "learning_rate": 2e-3, "patience": 16}
    return sdata, nh.tl.train(sdata, sections=TRAINING, **settings)


@pytest.fixture
def trained(make_sdata: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    """Sections A to D, and a model of all their genes that was trained on the first three."""
    sdata, model = _trained(make_sdata)
    return deepcopy(sdata), model


@functools.cache
def _trained_context(build: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    sdata = build((*TRAINING, HELD_OUT), side=6)
    return sdata, nh.tl.train(sdata, sections=TRAINING, **tiny_context() | {"max_epochs": 20})


@pytest.fixture
def trained_context(make_sdata: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model]:
    """Sections A to D, and a context model of all their genes that was trained on the first three."""
    sdata, model = _trained_context(make_sdata)
    return deepcopy(sdata), model


@pytest.fixture
def cut_by_hand() -> Callable[[SpatialData, str, int], np.ndarray]:
    """Patches of 32 px around the spots with PIL, from windows of `side` pixels, white beyond the image."""

    def cut(sdata: SpatialData, section: str, side: int) -> np.ndarray:
        image = Image.fromarray(sdata[f"{section}_image"].transpose("y", "x", "c").values)
        whole = Image.new("RGB", (image.width + 2 * side, image.height + 2 * side), "white")
        whole.paste(image, (side, side))
        shapes = sdata[section].loc[sdata["table"].obs.loc[sdata["table"].obs["region"] == section, "instance_id"]]
        corners = [(round(point.x) - side // 2 + side, round(point.y) - side // 2 + side) for point in shapes.geometry]
        boxes = [(x, y, x + side, y + side) for x, y in corners]
        return np.stack([np.asarray(whole.resize((32, 32), Image.Resampling.BILINEAR, box=box)) for box in boxes])

    return cut


@pytest.fixture
def unchanged() -> Callable[[SpatialData], Any]:
    """Make sure that a block changes nothing in a SpatialData, whatever becomes of it."""

    @contextmanager
    def check(sdata: SpatialData) -> Iterator[None]:
        before = deepcopy(sdata)
        try:
            yield
        finally:
            assert {name for _, name, _ in sdata.gen_elements()} == {name for _, name, _ in before.gen_elements()}
            assert sdata.attrs == before.attrs
            for name, table in sdata.tables.items():
                assert_same_table(table, before.tables[name])

    return check


def assert_same_table(table: AnnData, before: AnnData) -> None:
    """Make sure that two tables hold the same in all places."""
    np.testing.assert_array_equal(_dense(table.X), _dense(before.X))
    for place in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(table, place), getattr(before, place))
    for place in ("layers", "obsm", "varm", "obsp"):
        assert set(getattr(table, place)) == set(getattr(before, place))
        for name, values in getattr(table, place).items():
            np.testing.assert_array_equal(_dense(values), _dense(getattr(before, place)[name]))
    np.testing.assert_equal(dict(table.uns), dict(before.uns))


def _dense(values: Any) -> Any:
    return values.toarray() if issparse(values) else np.asarray(values)


@pytest.fixture
def learnt(by_gene: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[SpatialData], None]:
    """Check that predictions of the held-out section know the genes that darkness drives."""

    def check(sdata: SpatialData) -> None:
        driven = [f"gene{number}" for number in range(4)]
        scores = by_gene(nh.tl.evaluate(sdata)).query("truth == 'raw'").set_index("model")
        frame = scores[scores["gene"].isin(driven)]
        assert frame.loc["model", "pearson"].mean() > 0.5
        assert (frame.loc["model", "mse"].to_numpy() < 0.85 * frame.loc["training_mean", "mse"].to_numpy()).all()

    return check


@pytest.fixture
def same_run() -> Callable[[nh.models.Model, nh.models.Model, Path], None]:
    """Check that a run that was resumed in a folder gave the same model as one that was not interrupted."""

    def check(resumed: nh.models.Model, whole: nh.models.Model, folder: Path) -> None:
        assert resumed.history == whole.history
        assert resumed.sha256 == whole.sha256
        assert nh.models.load(folder / "best.safetensors").sha256 == whole.sha256
        assert resumed.provenance == whole.provenance

    return check

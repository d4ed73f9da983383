from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from shapely import Point
from spatialdata import SpatialData, deepcopy

import nh2st as nh

ENCODER = {"encoder": "test_resnet", "encoder_weights": None, "patch_px": 32, "patch_um": 32.0, "device": "cpu"}
SETTINGS: dict[str, Any] = ENCODER | {"variant": "paper", "network": {"width": 32, "heads": 2}, "max_epochs": 1}


@functools.cache
def _trained(build: Callable[..., SpatialData]) -> nh.models.Model:
    """Trained on squares of 200 um, at 5 um per pixel, of which obs and uns say the assay and the organism."""
    sdata = build(side=4, mpp=5.0)
    sdata["table"].obs["assay"] = "Spatial Transcriptomics"
    sdata["table"].uns["species"] = "human"
    return nh.tl.train(sdata, **SETTINGS | {"patch_um": 160.0})


@pytest.fixture
def model(make_sdata) -> nh.models.Model:
    return _trained(make_sdata)


@pytest.fixture
def warnings(caplog) -> Callable[[], list[str]]:
    def taken() -> list[str]:
        texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        caplog.clear()
        return texts

    return taken


def hexagonal(sdata: SpatialData, region: str, pitch: float) -> None:
    """Move the spots of a section of 6 x 6 to a hexagonal array of this pitch, in pixels."""
    row, col = np.divmod(np.arange(36), 6)
    x, y = 40 + pitch * (col + row % 2 / 2), 40 + pitch * row * np.sqrt(3) / 2
    sdata[region].geometry = [Point(place) for place in zip(x, y, strict=True)]
    here = sdata["table"].obs["region"] == region
    sdata["table"].obs.loc[here, "array_row"] = row
    sdata["table"].obs.loc[here, "array_col"] = 2 * col + row % 2


def test_training_records_the_assay(model):
    known = {name: model.provenance[name] for name in ("pitch", "array", "organism", "assay", "mpp")}
    assert known == {
        "pitch": [200.0, 200.0],
        "array": ["square", "square"],
        "organism": ["Homo sapiens", "Homo sapiens"],
        "assay": ["Spatial Transcriptomics", "Spatial Transcriptomics"],
        "mpp": [5.0, 5.0],
    }


def test_assay_of_hexagonal_scattered_and_mixed_sections(make_sdata, train, tmp_path):
    sdata = make_sdata(("A", "B", "C"), side=6)
    hexagonal(sdata, "A", 30)
    rng = np.random.default_rng(0)
    sdata["B"].geometry = [Point(place) for place in rng.uniform(40, 240, (36, 2))]
    sdata["table"].obs["organism"] = np.where(np.arange(108) < 37, "Mus musculus", "Homo sapiens")
    sdata["table"].obs["assay"] = np.nan
    model = train(sdata, genes=2)
    assert model.provenance["array"] == ["hexagonal", "generic", "square"]
    assert model.provenance["pitch"][::2] == pytest.approx([30, 40], rel=0.01)
    assert model.provenance["organism"] == ["Mus musculus", None, "Homo sapiens"]
    assert model.provenance["assay"] == [None] * 3
    again = nh.models.load(model.save(tmp_path / "model.safetensors"))
    assert again.provenance == model.provenance


def test_sections_like_those_of_the_training_are_not_warned_of(make_sdata, model, warnings):
    new = make_sdata("XY", side=4, seed=3, mpp=5.0)
    new["table"].obs["assay"] = "spatial transcriptomics"
    new["table"].uns["organism"] = "Homo sapiens"
    nh.tl.predict(new, model)
    assert warnings() == []


def test_nothing_is_said_of_what_is_unknown(make_sdata, model, warnings):
    new = make_sdata("X", side=4, seed=3, mpp=5.0)
    new["table"].obs[["organism", "assay"]] = np.nan
    nh.tl.predict(new, model)
    nh.tl.predict(make_sdata("X", side=1, seed=3, mpp=5.0), model)
    bare = replace(
        model, provenance={"pitch": [None, "far"], "array": ["generic"], "mpp": 3, "organism": {}, "assay": []}
    )
    nh.tl.predict(make_sdata("X", side=4, seed=3, mpp=9.0), bare)
    assert warnings() == []


def test_visium_after_spatial_transcriptomics(make_sdata, model, warnings):
    new = make_sdata("XYZ", side=6, seed=3, mpp=5.0)
    for region in "XZ":
        hexagonal(new, region, 20)
    new["table"].obs["assay"] = np.where(new["table"].obs["region"] == "Y", "Spatial Transcriptomics", "Visium")
    new["table"].obs["organism"] = "Mus musculus"
    nh.tl.predict(new, model)
    pitch, array, organism, assay = warnings()
    assert pitch.startswith(
        "Sections 'X', 'Z': the distance of spots is 100 um, in the training of the model it was 200 um"
    )
    assert array.startswith(
        "Sections 'X', 'Z': the array is hexagonal of 100 um, as Visium, in the training of the model it was square of "
        "200 um, as Spatial Transcriptomics."
    )
    assert "init_from=" in pitch
    assert organism.startswith(
        "Sections 'X', 'Y', 'Z': the organism is 'Mus musculus', in the training of the model it was 'Homo sapiens'."
    )
    assert assay.startswith(
        "Sections 'X', 'Z': the assay is 'Visium', in the training of the model it was 'Spatial Transcriptomics'."
    )


@pytest.mark.parametrize(("factor", "warned"), [(0.6, True), (0.8, False), (1.25, False), (1.4, True)])
def test_pitch_that_is_much_the_same(make_sdata, model, warnings, factor, warned):
    new = make_sdata("X", side=4, seed=3)
    nh.tl.predict(new, model, mpp=5.0 * factor)
    texts = warnings()
    assert any("the distance of spots" in text for text in texts) == warned
    assert len(texts) == warned


def test_pitch_of_one_of_the_training_sections_is_enough(make_sdata, model, warnings):
    both = replace(model, provenance=model.provenance | {"pitch": [100.0, 400.0], "array": ["square", "hexagonal"]})
    nh.tl.predict(make_sdata("X", side=4, seed=3, mpp=10.0), both)
    assert [text for text in warnings() if "scale" not in text] == []


def test_coarser_images_are_warned_of_where_patches_are_upsampled(make_sdata, model, warnings):
    nh.tl.predict(make_sdata("X", side=4, seed=3), model, mpp=8.0)
    assert any(
        "Section 'X': the scale of the image is 8 um/px, in the training of the model it was 5 um/px" in text
        and "full-resolution" in text
        for text in warnings()
    )
    # Patches have 5 um per pixel, and images that are finer in training are no better after resampling.
    finer = replace(model, provenance=model.provenance | {"mpp": [2.0, 2.5]})
    nh.tl.predict(make_sdata("X", side=4, seed=3, mpp=5.0), finer)
    assert warnings() == []


def test_training_sections_are_not_compared(make_sdata, model, warnings):
    nh.tl.predict(make_sdata(side=4), model, mpp=9.0)
    (text,) = warnings()
    assert "was trained on sections 'A', 'B'" in text


def test_plain_pixels(make_sdata, train, warnings):
    model = train(make_sdata(side=4), mpp="native")
    assert model.provenance["pitch"] == [40.0, 40.0]
    new = make_sdata("X", side=6, seed=3)
    hexagonal(new, "X", 20)
    warnings()
    nh.tl.predict(new, model)
    pitch, array = warnings()
    assert "is 20 px, in the training of the model it was 40 px" in pitch
    assert "the array is hexagonal of 20 px, in the training of the model it was square of 40 px" in array


def test_tiles_have_no_assay(make_sdata, model, warnings):
    slide = make_sdata("X", side=6, seed=3, mpp=5.0)
    del slide["table"], slide["X"]
    nh.tl.predict(slide, model, tile_um=100.0)
    nh.tl.predict(slide, model)
    assert not [text for text in warnings() if "in the training" in text]


def test_fine_tuning_says_the_same(make_sdata, model, warnings):
    new = make_sdata(("X", "Y"), side=6, seed=3, mpp=5.0)
    for region in ("X", "Y"):
        hexagonal(new, region, 20)
    warnings()
    tuned = nh.tl.train(new, init_from=model, max_epochs=1, device="cpu")
    said = [text for text in warnings() if "in the training of the model it was" in text]
    assert len(said) == 2
    assert tuned.provenance["pitch"] == [100.0, 100.0]
    fresh = deepcopy(new)
    fresh["table"].obs_names = [f"new{name}" for name in fresh["table"].obs_names]
    nh.tl.predict(fresh, tuned)
    assert warnings() == []

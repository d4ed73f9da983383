"""Models of the registry: used where none is named, and a better start than none on few spots."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import nh2st as nh
from nh2st.models import _registry


@pytest.fixture
def registered(trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nh.models.Model:
    """The trained model, as the one model of the registry, in a folder that a setting names."""
    _, model = trained
    file = model.save(tmp_path / "mirror" / "tiny.safetensors", inference_only=True)
    content = file.read_bytes()
    entry = {
        "name": "tiny",
        "organism": "Mus musculus",
        "tissue": "none",
        "assay": "none",
        "sections": ["A", "B", "C"],
        "n_genes": len(model.genes),
        "encoder": model.config.encoder,
        "target": model.target.kind,
        "patch_um": model.patch_um,
        "patch_px": model.patch_px,
        "pearson": 0.5,
        "ridge_pearson": 0.4,
        "validation": "none",
        "licence": "BSD-3-Clause",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    registry = tmp_path / "registry.json"
    registry.write_text(json.dumps([entry]))
    monkeypatch.setattr(_registry, "REGISTRY_FILE", registry)
    monkeypatch.setattr(nh.settings, "weights_url", file.parent)
    return nh.models.load("tiny")


def test_first_model_of_the_registry_is_the_default(registered, make_sdata, caplog):
    named, unnamed = make_sdata(seed=5), make_sdata(seed=5)
    nh.tl.predict(named, "tiny")
    nh.tl.predict(unnamed)
    assert "the pretrained 'tiny' is used" in caplog.text
    np.testing.assert_array_equal(unnamed["table"].layers["nh2st"], named["table"].layers["nh2st"])
    assert unnamed["table"].uns["nh2st"]["nh2st"]["sha256"] == registered.sha256


@pytest.mark.usefixtures("registered")
def test_fine_tuning_on_few_spots_beats_starting_afresh(make_sdata, train, by_gene):
    few, held_out = make_sdata(("X", "Y"), seed=9), make_sdata(("Z",), side=6, seed=10)
    few["table"].obs["few"] = few["table"].obs["array_row"] < 2
    budget = {"spots": "few", "max_epochs": 2, "batch_size": 4, "patience": 2}
    scores = {}
    for start, settings in {"pretrained": {"init_from": "tiny"}, "afresh": {"genes": 8}}.items():
        nh.tl.predict(held_out, train(few, **budget, **settings), key_added=start)
        frame = by_gene(nh.tl.evaluate(held_out, key=start)).query("model == 'model' and truth == 'raw'")
        # The darkness of a spot drives the first half of the genes; the others are noise.
        scores[start] = frame[frame["gene"].isin([f"gene{number}" for number in range(4)])]["pearson"].mean()
    assert scores["pretrained"] > 0.3
    assert scores["pretrained"] > scores["afresh"] + 0.1

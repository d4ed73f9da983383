"""Every estimator through one interface, and a new one that is a file and an entry in the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nh2st as nh
from nh2st._estimators import ESTIMATORS, Estimator, EstimatorConfig, Features, Predicted
from nh2st._patches import stack_patches

SETTINGS = {"encoder": "test_resnet", "encoder_weights": None, "patch_px": 32, "patch_um": 32.0, "device": "cpu"}


class Darkness(nn.Module):
    """A line for each gene over how dark a patch is."""

    def __init__(self, config):
        super().__init__()
        self.config, self.encoder = config, None
        self.register_buffer("line", torch.zeros(2, config.n_genes))


class DarknessEstimator(Estimator):
    variant = "darkness"
    config_class = EstimatorConfig

    def configure(self, **values):
        return self.config_class.from_dict({"variant": self.variant, **values})

    def build(self, config, encoder_weights):
        return Darkness(config)

    def read_key(self, network):
        return (self.variant,)

    def read(self, network, source, encoding):
        patches = stack_patches([section.image for section in source.sections], source.windows)
        dark = 1 - patches.mean(axis=(1, 2, 3), dtype=np.float64) / 255
        return Features(np.column_stack([np.ones(len(dark)), dark]))

    def fit(self, start, run, rows, *, new=True, features=None):
        line, *_ = np.linalg.lstsq(run.spots.images.values[rows], run.spots.expression[rows], rcond=None)
        start.network.line.copy_(torch.from_numpy(line))
        return start

    def predict(self, network, spots, rows, encoding):
        mean = (spots.images.values[rows] @ network.line.double().numpy()).astype(np.float32)
        return Predicted(mean, std=np.ones_like(mean))


@pytest.fixture
def darkness(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "darkness", DarknessEstimator())


@pytest.fixture
def lit(make_sdata):
    """Sections whose darkness drives the first half of the genes."""
    return make_sdata(("A", "B", "C"), side=5)


def values_of(sdata, key="nh2st"):
    return nh.get.predicted(sdata, key).X


def test_a_new_estimator_is_trained_saved_loaded_and_predicts(darkness, lit, tmp_path):
    model = nh.tl.train(lit, variant="darkness", sections=["A", "B"], **SETTINGS)
    again = nh.models.load(model.save(tmp_path / "darkness.safetensors"))
    assert again.sha256 == model.sha256
    assert again.config.variant == "darkness"
    nh.tl.predict(lit, again, device="cpu")
    predicted = nh.get.predicted(lit)
    # A plain least-squares line over the same patches, from the pixels of the image.
    panel, training = list(predicted.var_names), lit["table"].obs["region"].isin(["A", "B"]).to_numpy()
    nh.pp.normalize(lit)
    truth = lit["table"][:, panel].layers["nh2st_target"].toarray()
    dark = np.array([1 - patch_of(lit, region, i).mean() / 255 for region in "ABC" for i in range(25)])
    design = np.column_stack([np.ones(75), dark])
    line, *_ = np.linalg.lstsq(design[training], truth[training], rcond=None)
    np.testing.assert_allclose(predicted.X, design @ line, atol=1e-4)
    assert (values_of(lit, "nh2st_std") == 1).all()
    scores = nh.tl.evaluate(lit)
    assert set(scores["model"]) == {"model"}
    measured = np.corrcoef(truth[50:, 0], predicted.X[50:, 0])[0, 1]
    chosen = scores.query("section == 'C' and gene == @panel[0] and truth == 'raw' and metric == 'pearson'")
    assert chosen["value"].item() == pytest.approx(measured, abs=1e-4)


def patch_of(sdata, region, position):
    image = sdata[f"{region}_image"].transpose("y", "x", "c").values
    centre = sdata[region].geometry.iloc[position]
    x, y = round(centre.x), round(centre.y)
    padded = np.pad(image, ((16, 16), (16, 16), (0, 0)), constant_values=255)
    return padded[y : y + 32, x : x + 32]


def test_a_new_estimator_is_cross_validated(darkness, lit):
    scores = nh.tl.cross_validate(lit, variant="darkness", baselines=False, **SETTINGS)
    assert set(scores["model"]) == {"model"}
    left_out = lit["table"].obs["nh2st_cv_fold"].to_numpy()
    model = nh.tl.train(lit, variant="darkness", sections=["B", "C"], **SETTINGS)
    nh.tl.predict(lit, model, device="cpu", sections=["A"])
    of_a = (lit["table"].obs["region"] == "A").to_numpy()
    assert len(set(left_out[of_a])) == 1
    folds, alone = nh.get.predicted(lit, "nh2st_cv"), nh.get.predicted(lit)
    genes = folds.var_names.intersection(alone.var_names)
    np.testing.assert_array_equal(folds[of_a, genes].X, alone[:, genes].X)


@pytest.mark.parametrize("variant", sorted(set(ESTIMATORS)))
def test_every_estimator_is_the_same_after_saving(variant, lit, tmp_path):
    settings = SETTINGS | {"max_epochs": 1}
    if variant == "context":
        settings["network"] = {"members": 1, "components": 4}
    model = nh.tl.train(lit, variant=variant, sections=["A", "B"], **settings)
    loaded = nh.models.load(model.save(tmp_path / "model.safetensors"))
    assert (loaded.sha256, loaded.config) == (model.sha256, model.config)
    nh.tl.predict(lit, model, device="cpu", sections=["C"], baselines=False)
    before = values_of(lit)
    nh.tl.predict(lit, loaded, device="cpu", sections=["C"], baselines=False)
    np.testing.assert_array_equal(values_of(lit), before)
    assert np.isfinite(before).all()
    assert before.shape == (25, 8)

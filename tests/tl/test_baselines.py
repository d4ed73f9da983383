"""The ridge baseline, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from spatialdata import SpatialData

import nh2st as nh

PENALTIES = 10.0 ** np.arange(4, -2.5, -0.5)


def features(model: nh.models.Model, sdata: SpatialData, sections: str) -> np.ndarray:
    """Frozen features of the patches, cut by hand; none reaches beyond the image."""
    parts = []
    for section in sections:
        image = sdata[f"{section}_image"].transpose("y", "x", "c").values
        points = [(round(point.x), round(point.y)) for point in sdata[section].geometry]
        cut = np.stack([image[y - 16 : y + 16, x - 16 : x + 16] for x, y in points])
        parts.append(model.baselines.encoder.features(torch.from_numpy(cut)).numpy())
    return np.concatenate(parts).astype(np.float64)


def expression(model: nh.models.Model, sdata: SpatialData, sections: str) -> np.ndarray:
    counts = sdata["table"][sdata["table"].obs["region"].isin(list(sections))].to_df()
    return np.log1p(1e4 * counts.div(counts.sum(axis=1), axis=0))[model.genes].to_numpy()


def test_ridge_equals_scikit_learn(trained):
    sdata, model = trained
    x, y = features(model, sdata, "ABC"), expression(model, sdata, "ABC")
    groups = np.repeat(np.arange(3), len(x) // 3)
    columns = make_pipeline(StandardScaler(), PCA(min(256, *x.shape), svd_solver="full")).fit(x)

    def fit(scores: np.ndarray, y: np.ndarray, penalty: float) -> Ridge:
        return Ridge(alpha=penalty * scores.var(axis=0).sum()).fit(scores, y)

    def score(penalty: float) -> float:
        scores = columns.transform(x)
        folds = GroupKFold(3).split(x, groups=groups)
        fitted = [(fit(scores[train], y[train], penalty).predict(scores[test]), y[test]) for train, test in folds]
        return np.mean([[np.corrcoef(*pair)[0, 1] for pair in zip(a.T, b.T, strict=True)] for a, b in fitted])

    best = max(PENALTIES, key=score)
    nh.tl.predict(sdata, model, sections=["D"])
    rows = sdata["table"].obs["region"] == "D"
    ridge = sdata["table"][rows].to_df("nh2st_ridge")[model.genes]
    expected = fit(columns.transform(x), y, best).predict(columns.transform(features(model, sdata, "D")))
    np.testing.assert_allclose(ridge, expected, rtol=2e-3, atol=2e-3)
    assert expected.std(axis=0).min() > 0.02


def test_encoder_of_the_baseline_is_not_trained(make_sdata, train):
    sdata = make_sdata(side=4)
    short, long = (train(sdata, max_epochs=epochs) for epochs in (1, 3))
    first, second = (model.baselines.encoder.state_dict() for model in (short, long))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    trained, name = long.network.encoder.state_dict(), "model.stem.conv1.weight"
    assert name in trained or (name := next(key for key in trained if key.endswith("weight")))
    assert not torch.equal(trained[name], second[name])


def test_model_without_baselines(trained):
    sdata, model = trained
    bare = nh.models.Model(model.network, model.genes, model.target, model.patch_um)
    with pytest.raises(ValueError, match="carries no baselines"):
        nh.tl.predict(sdata, bare, baselines=True)
    nh.tl.predict(sdata, bare)
    assert set(nh.tl.evaluate(sdata)["model"]) == {"model"}

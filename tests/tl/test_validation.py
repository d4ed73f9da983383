"""The validation split never divides a donor where there are enough of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import nh2st as nh
from nh2st._sections import find_spots
from nh2st.tl._training._validation_split import validation_split

DONORS = {"A": "p", "B": "q", "C": "p", "D": "r", "E": "q"}


@pytest.fixture
def sdata(make_sdata):
    return make_sdata(tuple(DONORS), side=3)


def held_out(model: nh.models.Model) -> list[str]:
    text = model.provenance["validation"]
    assert text.startswith("donors held out: ")
    return text.removeprefix("donors held out: ").split(", ")


def test_a_whole_donor_validates(sdata, train, by_gene):
    model = train(sdata, groups=DONORS)
    (donor,) = held_out(model)
    sections = [name for name, of in DONORS.items() if of == donor]
    nh.tl.predict(sdata, model, sections=sections)
    frame = by_gene(nh.tl.evaluate(sdata)).query("model == 'model' and truth == 'raw'")
    assert model.history[0]["val_mse"] == pytest.approx(frame["mse"].mean(), rel=1e-4)
    assert model.history[0]["val_pearson"] == pytest.approx(frame.groupby("section")["pearson"].mean().mean(), abs=1e-4)


@pytest.mark.parametrize("part", ["counts", "image"])
def test_the_network_never_sees_the_held_out_donor(sdata, train, part):
    genes = list(sdata["table"].var_names)
    model = train(sdata, groups=DONORS, genes=genes)
    (donor,) = held_out(model)
    table = sdata["table"]
    for section in (name for name, of in DONORS.items() if of == donor):
        if part == "counts":
            counts = table.X.toarray()
            rows = np.flatnonzero(table.obs["region"] == section)
            counts[rows] = counts[rows[::-1]]
            table.X = csr_matrix(counts)
        else:
            image = sdata[f"{section}_image"]
            image.data = 255 - image.data
    other = train(sdata, groups=DONORS, genes=genes)
    assert other.history[0]["val_mse"] != model.history[0]["val_mse"]
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name


def test_seed_chooses_the_donor(sdata, train):
    chosen = {held_out(train(sdata, groups=DONORS, seed=seed))[0] for seed in range(4)}
    assert len(chosen) > 1
    assert chosen <= set("pqr")


def test_column_of_obs(sdata, train):
    sdata["table"].obs["patient"] = sdata["table"].obs["region"].map(DONORS)
    model = train(sdata, groups="patient")
    assert model.provenance["groups"] == ["p", "q", "r"]
    assert held_out(model) == held_out(train(sdata, groups=DONORS))
    assert train(sdata).provenance["groups"] == [f"donor{number}" for number in range(5)]


def test_spots_without_a_donor(sdata, train, unchanged):
    sdata["table"].obs["patient"] = sdata["table"].obs["region"].map(DONORS).astype(object)
    sdata["table"].obs.iloc[[0, 4], -1] = np.nan
    with unchanged(sdata), pytest.raises(ValueError, match="obs\\['patient'\\] is empty for 2 spots of section 'A'"):
        train(sdata, groups="patient")


def test_unknown_donors_are_said(sdata, train, caplog):
    del sdata["table"].obs["donor"]
    model = train(sdata)
    assert model.provenance["groups"] == list(DONORS)
    assert "No donors are known (no obs['donor'])" in caplog.text
    assert "groups=" in caplog.text


@pytest.mark.parametrize("n_donors", [1, 2])
def test_too_few_donors_are_validated_within_their_sections(make_sdata, train, caplog, n_donors):
    sdata = make_sdata(("A", "B"), side=4)
    model = train(sdata, groups={"A": "p", "B": "pq"[n_donors - 1]})
    assert model.provenance["validation"] == "spatial blocks inside the training sections"
    assert f"Only {n_donors} donor group" in caplog.text
    assert "no measure of performance" in caplog.text
    assert "val_pearson" in model.history[0]
    assert model.provenance["validation"] in model.summary()


def test_the_network_never_sees_the_validation_block(make_sdata, train):
    sdata = make_sdata(("A",), side=5)
    table = sdata["table"]
    genes = list(table.var_names)
    model = train(sdata, genes=genes, batch_size=4)
    (section,) = find_spots(sdata)
    block = np.flatnonzero(validation_split([section], [np.full(25, "donor0", dtype=object)], seed=0).validation)
    assert len(block) == 5
    counts = table.X.toarray()
    counts[block] = counts[block[::-1]]
    table.X = csr_matrix(counts)
    image = sdata["A_image"].data.compute()
    for x, y in section.xy[block].astype(int):
        image[:, y - 16 : y + 16, x - 16 : x + 16] = 0
    sdata["A_image"].data = image
    other = train(sdata, genes=genes, batch_size=4)
    assert other.history[0]["val_mse"] != model.history[0]["val_mse"]
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name

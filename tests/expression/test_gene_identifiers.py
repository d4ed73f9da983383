from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData, deepcopy, read_zarr

import nh2st as nh

SYMBOLS = ["ERBB2", "FASN", "HLA-A", "MARCHF1", "SEPTIN2", "ACTB", "CD74", "KRT8"]
MOUSE_SYMBOLS = ["Erbb2", "Fasn", "H2-K1", "Marchf1", "Septin2", "Actb", "Cd74", "Krt8"]
IDS = [f"ENSG{number:011d}" for number in (141736, 169710, 206503, 145416, 168385, 75624, 19582, 170421)]
MOUSE_IDS = [f"ENSMUSG{number:011d}" for number in (62312, 25153, 61232, 36469, 26276, 29580, 24610, 49382)]
VERSIONED = [f"{name}.{number + 3}" for number, name in enumerate(IDS)]

ENCODER = {"encoder": "test_resnet", "encoder_weights": None, "patch_px": 32, "patch_um": 32.0, "device": "cpu"}
SETTINGS: dict[str, Any] = ENCODER | {"network": {"width": 32, "heads": 2}, "max_epochs": 1}


def renamed(sdata: SpatialData, names: Sequence[str], **columns: Any) -> SpatialData:
    """The object with other names of its genes, and further columns of `var`."""
    other = deepcopy(sdata)
    table = other["table"]
    table.var_names = list(names)
    for key, values in columns.items():
        table.var[key] = values
    return other


@functools.cache
def _trained(build: Callable[..., SpatialData]) -> tuple[SpatialData, nh.models.Model, pd.DataFrame, pd.DataFrame]:
    old, new = (renamed(build(regions, side=4, seed=seed), SYMBOLS) for regions, seed in (("AB", 0), ("D", 1)))
    model = nh.tl.train(old, genes=SYMBOLS[::-1], **SETTINGS)
    plain = deepcopy(new)
    nh.tl.predict(plain, model)
    return new, model, plain["table"].to_df("nh2st"), nh.tl.evaluate(plain)


@pytest.fixture
def trained(make_sdata) -> tuple[SpatialData, nh.models.Model, pd.DataFrame]:
    """A new section whose genes have symbols, a model of these symbols, and what it predicts there."""
    return _trained(make_sdata)[:3]


def panel_as(model: nh.models.Model, names: Sequence[str]) -> nh.models.Model:
    """The same model with other names of its genes."""
    names_of = dict(zip(SYMBOLS, names, strict=True))
    gene_sets = {name: [names_of[gene] for gene in genes] for name, genes in model.provenance["gene_sets"].items()}
    genes = [names_of[gene] for gene in model.genes]
    return replace(model, genes=genes, provenance=model.provenance | {"gene_sets": gene_sets})


@pytest.mark.parametrize(
    ("panel", "names", "columns"),
    [
        (SYMBOLS, IDS, {"gene_symbols": SYMBOLS}),
        (SYMBOLS, VERSIONED, {"feature_name": pd.Categorical(SYMBOLS), "n_cells": range(8), "genome": "GRCh38"}),
        (IDS, SYMBOLS, {"gene_ids": IDS, "feature_types": "Gene Expression"}),
        (VERSIONED, SYMBOLS, {"genome": "GRCh38", "gene_ids": IDS}),
        (IDS, SYMBOLS, {"ensembl": VERSIONED}),
        (IDS, VERSIONED, {}),
        (VERSIONED, [name.replace(".", ".1") for name in VERSIONED], {"gene_name": SYMBOLS}),
    ],
)
def test_panel_is_found_by_whichever_identifier(make_sdata, trained, tmp_path, panel, names, columns):
    sdata, model, expected = trained
    model, new = panel_as(model, panel), renamed(sdata, names, **columns)
    nh.tl.predict(new, model)
    table = new["table"]
    np.testing.assert_array_equal(table.to_df("nh2st")[names].to_numpy(), expected[SYMBOLS].to_numpy())
    assert table.var["nh2st_predicted"].all()
    assert "nh2st" not in table.obsm
    record = table.uns["nh2st"]["nh2st"]
    assert record["genes"] == [names[panel.index(gene)] for gene in model.genes]
    assert record["model_genes"] == model.genes
    scores = nh.tl.evaluate(new)
    plain = _trained(make_sdata)[3]
    pd.testing.assert_frame_equal(scores.drop(columns="gene"), plain.drop(columns="gene"))
    new.write(tmp_path / "new.zarr")
    taken = nh.get.predicted(read_zarr(tmp_path / "new.zarr"))
    assert list(taken.var_names) == record["genes"]
    np.testing.assert_array_equal(taken.X, expected[SYMBOLS[::-1]])


def test_same_names_are_recorded_once(trained):
    sdata, model, _ = trained
    new = deepcopy(sdata)
    nh.tl.predict(new, model)
    assert new["table"].uns["nh2st"]["nh2st"]["genes"] == model.genes
    assert "model_genes" not in new["table"].uns["nh2st"]["nh2st"]


def test_figures_know_the_names_of_the_table(trained):
    import matplotlib.pyplot as plt

    sdata, model, _ = trained
    new = renamed(sdata, IDS, gene_symbols=SYMBOLS)
    nh.tl.predict(new, model)
    nh.pl.spatial_genes(new, [IDS[0]])
    plt.close("all")
    with pytest.raises(KeyError, match="was not predicted"):
        nh.pl.spatial_genes(new, ["ERBB2"])


def test_log_says_how_genes_were_found(trained, caplog):
    sdata, model, _ = trained
    new = renamed(sdata, [*SYMBOLS[:3], *VERSIONED[3:]], gene_ids=[*VERSIONED[:6], "", None])
    with caplog.at_level(logging.INFO, logger="nh2st"):
        nh.tl.predict(new, panel_as(model, [*SYMBOLS[:2], *IDS[2:4], VERSIONED[4], IDS[5], "CD74", "KRT8"]))
    # Three are in var_names as they are; of the others, the column has one more than var_names.
    assert "3 genes of the model are found by var['gene_ids'], 3 of them with another version" in caplog.text
    assert "2 genes of the model are not in the table; their predictions are in obsm['nh2st']" in caplog.text
    assert list(new["table"].obsm["nh2st"].columns) == ["KRT8", "CD74"]


def test_genes_that_the_table_lacks_keep_the_name_of_the_model(trained):
    sdata, model, expected = trained
    new = renamed(sdata, [*IDS[:6], "ENSG00000000001", "ENSG00000000002"], symbol=[*SYMBOLS[:6], "CD7", "KRT"])
    nh.tl.predict(new, model)
    table = new["table"]
    np.testing.assert_array_equal(table.to_df("nh2st")[IDS[:6]].to_numpy(), expected[SYMBOLS[:6]].to_numpy())
    assert table.var["nh2st_predicted"].tolist() == [True] * 6 + [False] * 2
    pd.testing.assert_frame_equal(table.obsm["nh2st"], expected[["KRT8", "CD74"]], check_names=False)
    taken = nh.get.predicted(new).to_df()
    assert list(taken.columns) == ["KRT8", "CD74", *IDS[5::-1]]
    np.testing.assert_array_equal(taken, expected[SYMBOLS[::-1]])
    assert set(nh.tl.evaluate(new)["gene"]) == {"", *IDS[:6]}


def test_genes_that_fit_several_are_left_out_and_named(trained, caplog):
    sdata, model, expected = trained
    new = renamed(sdata, IDS, symbol=[*SYMBOLS[:6], "ACTB", "KRT8"])
    nh.tl.predict(new, model)
    assert "1 genes of the model fit several genes of var['symbol'], or one together" in caplog.text
    assert "'ACTB'" in caplog.text
    assert set(new["table"].obsm["nh2st"].columns) == {"ACTB", "CD74"}
    caplog.clear()
    nh.tl.predict(renamed(sdata, IDS), panel_as(model, [*IDS[:6], f"{IDS[6]}.1", f"{IDS[6]}.2"]))
    assert "2 genes of the model fit several genes of `var_names`, or one together" in caplog.text
    assert f"taken as missing: '{IDS[6]}.2', '{IDS[6]}.1'" in caplog.text


def test_name_in_the_table_goes_before_a_column(trained):
    sdata, model, expected = trained
    shifted = SYMBOLS[1:] + SYMBOLS[:1]
    new = renamed(sdata, SYMBOLS, old_symbol=shifted)
    nh.tl.predict(new, model)
    pd.testing.assert_frame_equal(new["table"].to_df("nh2st"), expected)


def test_other_spellings_are_named(trained, caplog):
    sdata, model, _ = trained
    new = renamed(sdata, ["Erbb2", "FASN", "HLA.A", "1-Mar", "Sep-02", "ACTB", "CD74", "KRT8"])
    nh.tl.predict(new, model)
    for text in (
        "1 in case ('ERBB2' is 'Erbb2')",
        "3 in separators, or as dates made by a spreadsheet (",
        "'HLA-A' is 'HLA.A'",
        "'MARCHF1' is '1-Mar'",
        "'SEPTIN2' is 'Sep-02'",
        "Rename them in `var_names`",
    ):
        assert text in caplog.text
    assert set(new["table"].obsm["nh2st"].columns) == {"ERBB2", "HLA-A", "MARCHF1", "SEPTIN2"}
    caplog.clear()
    nh.tl.predict(renamed(sdata, SYMBOLS[:-1] + ["KRT18"]), model)
    assert "spelling" not in caplog.text


@pytest.mark.parametrize(
    ("panel", "names", "columns", "message"),
    [
        (
            SYMBOLS,
            MOUSE_SYMBOLS,
            {},
            "Only 0 of the model's 8 genes .* and 7 in another spelling .'ERBB2' is 'Erbb2', .*another species: the "
            "model has human symbols .'KRT8'., the table mouse or rat symbols .'Erbb2'.*Choose a model",
        ),
        (MOUSE_SYMBOLS, SYMBOLS, {}, "the model has mouse or rat symbols .'Krt8'., the table human symbols .'ERBB2'"),
        (
            IDS,
            MOUSE_IDS,
            {},
            f"model has human Ensembl ids .'{IDS[-1]}'., the table mouse Ensembl ids .'{MOUSE_IDS[0]}'",
        ),
        (VERSIONED, MOUSE_SYMBOLS, {"gene_ids": MOUSE_IDS}, "human Ensembl ids .*mouse Ensembl ids"),
        (SYMBOLS, MOUSE_IDS, {"feature_name": MOUSE_SYMBOLS}, "7 in another spelling.*human symbols .*mouse or rat"),
        (IDS, [name.replace("ENSG", "ENSSSCG") for name in IDS], {}, "human Ensembl ids .*table ENSSSCG Ensembl ids"),
        (SYMBOLS, IDS, {"genome": "GRCh38"}, "other gene identifiers.*Rename `var_names`, add .* as a column of `var`"),
        (SYMBOLS, [name.lower() for name in SYMBOLS], {}, "8 in another spelling .*Rename them in `var_names`"),
    ],
)
def test_genes_that_do_not_fit_are_refused_with_the_reason(trained, panel, names, columns, message):
    sdata, model, _ = trained
    new = renamed(sdata, names, **columns)
    with pytest.raises(ValueError, match=message):
        nh.tl.predict(new, panel_as(model, panel))
    assert not new["table"].layers


def test_earlier_sections_stay_when_the_table_is_renamed_for_missing_genes(make_sdata, trained):
    _, model, _ = trained
    both = renamed(make_sdata("CD", side=4, seed=1), [*SYMBOLS[:7], "other"])
    whole = deepcopy(both)
    nh.tl.predict(whole, model)
    nh.tl.predict(both, model, sections=["C"])
    both["table"].var["alias"] = SYMBOLS
    nh.tl.predict(both, model, sections=["D"])
    expected = nh.get.predicted(whole).to_df().rename(columns={"KRT8": "other"})
    pd.testing.assert_frame_equal(both["table"].to_df("nh2st")[expected.columns[1:]], expected.iloc[:, 1:])
    later = (both["table"].obs["region"] == "D").to_numpy()
    np.testing.assert_array_equal(both["table"].to_df("nh2st").loc[later, "other"], expected.loc[later, "other"])


def test_training_on_genes_named_by_another_identifier(make_sdata, trained, caplog):
    sdata, _, _ = trained
    chosen = [IDS[6], VERSIONED[1]]
    data = renamed(make_sdata(side=4), SYMBOLS, gene_ids=IDS)
    with caplog.at_level(logging.INFO, logger="nh2st"):
        nh.pp.select_genes(data, genes=chosen)
        model = nh.tl.train(data, genes=chosen, **SETTINGS)
    assert "2 of the genes are found by var['gene_ids']" in caplog.text
    assert data["table"].var_names[data["table"].var["nh2st_gene"]].tolist() == ["FASN", "CD74"]
    assert model.genes == chosen
    by_symbol = nh.tl.train(data, genes=["CD74", "FASN"], **SETTINGS)
    assert model.history == by_symbol.history
    np.testing.assert_array_equal(model.baselines.mean, by_symbol.baselines.mean)
    new = renamed(sdata, SYMBOLS, gene_ids=IDS)
    nh.tl.predict(new, model)
    assert list(nh.get.predicted(new).var_names) == ["CD74", "FASN"]


def test_genes_to_train_on_that_no_column_has(make_sdata):
    data = renamed(make_sdata(side=3), ["HLA.A", "1-Mar", *SYMBOLS[4:], "X", "Y"])
    with pytest.raises(KeyError, match=r"3 of 3 genes .*'HLA-A' \(did you mean 'HLA.A'\?\), 'MARCH1' .*'1-Mar'.*ENSG"):
        nh.tl.train(data, genes=["HLA-A", "MARCH1", "ENSG00000141736"], **SETTINGS)


def test_fine_tuning_finds_the_panel_too(make_sdata, trained):
    _, model, _ = trained
    data = make_sdata(("X", "Y"), side=3, seed=7)
    settings = {name: SETTINGS[name] for name in ("max_epochs", "device")}
    tuned = nh.tl.train(renamed(data, IDS, feature_name=SYMBOLS), init_from=model, **settings)
    plain = nh.tl.train(renamed(data, SYMBOLS), init_from=model, **settings)
    assert tuned.genes == model.genes
    assert tuned.history == plain.history
    with pytest.raises(ValueError, match="another species: the model has human symbols"):
        nh.tl.train(renamed(data, MOUSE_SYMBOLS), init_from=model, **settings)
    with pytest.raises(KeyError, match="1 of 8 genes are not in the table: 'KRT8'"):
        nh.tl.train(renamed(data, [*SYMBOLS[:7], "other"]), init_from=model, **settings)

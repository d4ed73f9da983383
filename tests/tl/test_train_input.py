"""What training refuses, and what it takes as a panel; nothing is written on failure."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from spatialdata import SpatialData

import nh2st as nh


@pytest.fixture
def sdata(make_sdata: Callable[..., SpatialData]) -> SpatialData:
    return make_sdata(side=3)


def set_counts(sdata: SpatialData, change: Callable[[np.ndarray], None]) -> None:
    counts = sdata["table"].X.toarray()
    change(counts)
    sdata["table"].X = counts


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1, not 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be a positive number, not -1"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be a positive number"),
        ({"device": "abc"}, ValueError, 'device=\'abc\' is unknown; use "auto", "cpu"'),
        ({"devices": 0}, ValueError, "devices must be at least 1, not 0"),
        ({"devices": []}, ValueError, r"devices must be a number of devices, a list of GPUs such as .0, 1., or"),
        ({"devices": "all"}, ValueError, "devices must be a number of devices.*not 'all'"),
        ({"devices": True}, ValueError, "devices must be a number of devices.*not True"),
        ({"devices": [0, 1]}, ValueError, "devices=.0, 1. must be different GPUs; training is to run on 'cpu'"),
        ({"devices": 2, "device": "cpu:0"}, ValueError, 'names a single device: for several.*device="cpu"'),
        ({"num_nodes": 0}, ValueError, "num_nodes must be at least 1, not 0"),
        ({"num_nodes": 2}, ValueError, "num_nodes=2 needs something that starts the script on every node: `srun`"),
        ({"num_nodes": 2, "device": "cpu:0"}, ValueError, "names a single device"),
        ({"strategy": "zero"}, ValueError, "Lightning cannot train with .*strategy='zero'"),
        ({"strategy": "ddp_spawn", "devices": 2}, ValueError, "strategy='ddp_spawn' is not supported.*\"ddp\", in a"),
        ({"strategy": "ddp_notebook", "devices": 2}, ValueError, "is not supported.*In a notebook, train on one"),
        ({"strategy": "fsdp", "devices": 2}, ValueError, "fsdp"),
        ({"fine_tune": 9}, ValueError, "its trained part can be .*not 9"),
        ({"fine_tune": 0}, ValueError, "its trained part can be .*not 0"),
        ({"fine_tune": "some"}, ValueError, "its trained part can be .*not 'some'"),
        ({"precision": "fp8"}, ValueError, 'precision must be "auto", "32" or "bf16", not \'fp8\''),
        ({"target": "z-score"}, ValueError, "no target 'z-score'; choose one of 'default', 'paper'"),
        ({"encoder": "test_resnett"}, ValueError, "no encoder 'test_resnett'.* Close names: .*test_resnet"),
        ({"encoder": "test_vit", "patch_px": 160}, ValueError, "gives tokens and no feature map.*map_px"),
        ({"network": {"widht": 32}}, ValueError, "Unknown fields in the network configuration: widht"),
        ({"network": {"width": 30, "heads": 4}}, ValueError, "heads must divide width"),
        ({"encoder_weights": "nowhere.pth"}, FileNotFoundError, "no file of weights nowhere.pth"),
        ({"mpp": -0.5}, ValueError, "mpp= must be a positive number"),
        ({"patch_um": 1e5}, ValueError, "patch of 100000 um is 100000 px wide"),
        ({"groups": "patient"}, KeyError, "groups='patient' names no column of obs"),
        ({"groups": {"A": "x"}}, KeyError, "groups= has no entry for section 'B'; it has: 'A'"),
        ({"genes": 9}, ValueError, "9 genes were asked for, but the tables have 8 in common"),
        ({"genes": 0}, ValueError, "0 genes were asked for"),
        ({"genes": []}, ValueError, "at least one gene"),
        ({"genes": ["gene1", "Gene2"]}, KeyError, "1 of 2 genes are not in the table: 'Gene2' .did you mean 'gene2'"),
        ({"layer": "raw"}, KeyError, "no layer 'raw'"),
        ({"sections": ["Z"]}, KeyError, "no section 'Z'"),
        ({"init_from": "nowhere.safetensors"}, FileNotFoundError, "no model file nowhere.safetensors"),
        ({"resume_from": "nowhere/last.ckpt"}, FileNotFoundError, "must be the last.ckpt of a run"),
    ],
)
def test_settings_are_checked_before_pixels_are_read(sdata, train, unchanged, settings, error, message):
    with unchanged(sdata), pytest.raises(error, match=message):
        train(sdata, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(sdata, train):
    with pytest.raises(RuntimeError, match='device="cuda".*torch sees 0.*device="auto" or "cpu"'):
        train(sdata, device="cuda")


@pytest.mark.usefixtures("unread")
def test_checkpoints_that_cannot_be_written(sdata, train, unchanged, tmp_path):
    (tmp_path / "file").write_text("")
    with unchanged(sdata), pytest.raises(OSError, match="Checkpoints cannot be written to .*file.*checkpoint_dir="):
        train(sdata, checkpoint_dir=tmp_path / "file")


@pytest.mark.usefixtures("unread")
def test_weights_of_another_encoder(sdata, train, tmp_path):
    save_file({"stem.kernel": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="No weight in .*other.safetensors fits the encoder.*stem.kernel"):
        train(sdata, encoder_weights=tmp_path / "other.safetensors")


def test_weights_of_a_file_are_used(sdata, train, tmp_path):
    torch.manual_seed(3)
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    model = train(sdata, encoder_weights=str(tmp_path / "weights.safetensors"))
    frozen = model.baselines.encoder.model.state_dict()
    assert all(torch.equal(frozen[name], value) for name, value in state.items())
    assert model.provenance["encoder_weights"].endswith("weights.safetensors")


@pytest.mark.usefixtures("unread")
def test_random_weights_are_never_silent(sdata, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", os.devnull)
    with pytest.raises(RuntimeError, match="weights of encoder 'test_resnet' could not be had.*encoder_weights=<local"):
        nh.tl.train(sdata, encoder="test_resnet", patch_px=32, patch_um=32, device="cpu")


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("genes", [4, ["gene0", "gene3"]])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda counts: counts.__setitem__((0, 3), -1), "negative values in 1 genes .first: 'gene3'.*layer="),
        (lambda counts: counts.__setitem__((0, 3), np.nan), "NaN or infinite values in 1 genes .first: 'gene3'"),
        (lambda counts: np.log1p(counts, out=counts), "log-normalised already.*layer="),
    ],
)
def test_counts_that_are_none(sdata, train, unchanged, tmp_path, genes, change, message):
    set_counts(sdata, change)
    with unchanged(sdata), pytest.raises(ValueError, match=message):
        train(sdata, genes=genes, checkpoint_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_corrected_counts_are_taken_with_a_warning(sdata, train, caplog):
    set_counts(sdata, lambda counts: counts.__iadd__(0.25))
    train(sdata)
    assert "X of section 'A' holds fractions (up to" in caplog.text


def test_anndata_has_no_image(sdata, train):
    with pytest.raises(TypeError, match="needs the image"):
        train(sdata["table"])


def test_panel_is_what_was_selected(sdata, train, caplog):
    nh.pp.select_genes(sdata, genes=["gene6", "gene1"])
    assert train(sdata).genes == ["gene1", "gene6"]
    assert "The panel is the 2 genes of var['nh2st_gene']" in caplog.text
    assert train(sdata, genes=["gene3"]).genes == ["gene3"]


@pytest.mark.parametrize("number", [3, np.int64(3)])
def test_panel_of_the_highest_mean_counts(sdata, train, number):
    totals = sdata["table"].to_df().sum().sort_values(ascending=False)
    assert train(sdata, genes=number).genes == list(totals.index[:3])


def test_panel_is_common_to_all_tables(make_sdata, train):
    few, many = make_sdata(("A",), side=3, n_genes=3), make_sdata(("B",), side=3, n_genes=8, seed=1)
    assert sorted(train([few, many]).genes) == ["gene0", "gene1", "gene2"]
    with pytest.raises(KeyError, match="'gene5'"):
        train([few, many], genes=["gene5"])


@pytest.mark.usefixtures("unread")
def test_selections_that_differ(make_sdata, train):
    first, second = make_sdata(("A",), side=3), make_sdata(("B",), side=3, seed=1)
    nh.pp.select_genes(first, genes=["gene0"])
    nh.pp.select_genes(second, genes=["gene1"])
    with pytest.raises(ValueError, match="differs between the tables.*select_genes"):
        train([first, second])


@pytest.mark.usefixtures("unread")
def test_repeated_gene_names(sdata, train):
    nh.pp.select_genes(sdata, 4)
    sdata["table"].var_names = ["gene0", *sdata["table"].var_names[:-1]]
    with pytest.raises(ValueError, match="repeat in the table .*'gene0'.*var_names_make_unique"):
        train(sdata)


def test_a_view_keeps_the_record_of_its_training(sdata, train):
    table = sdata["table"]
    sdata.tables["table"] = table[:]
    assert sdata["table"].is_view
    model = train(sdata)
    assert sdata["table"].uns["nh2st"]["training"]["sha256"] == model.sha256
    assert "nh2st" not in table.uns

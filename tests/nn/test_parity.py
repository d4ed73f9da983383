"""Equality with outputs that the network released by the authors of NH2ST computed from reproducible weights."""

from __future__ import annotations

import argparse
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import nh2st as nh
import nh2st.nn as nn_
from nh2st.nn._released_weights import released_state_dict

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def _folder() -> Path | None:
    if folder := os.environ.get("NH2ST_PARITY_DIR"):
        return Path(folder)
    if data := os.environ.get("NH2ST_DATA_DIR"):
        return Path(data).parent / "parity"
    return None


FOLDER = _folder()
FILES = sorted(FOLDER.glob("reference_*.npz")) if FOLDER else []
pytestmark = pytest.mark.skipif(not FILES, reason="no reference outputs: NH2ST_PARITY_DIR or NH2ST_DATA_DIR")


def _value(name: str, shape: tuple[int, ...], salt: int) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    rs = np.random.RandomState(zlib.crc32(f"{name}|{salt}".encode()) & 0x7FFFFFFF)
    v = rs.standard_normal(size=shape).astype(np.float32)
    if name.endswith("running_var"):
        v = 1 + 0.1 * abs(v)
    elif name.endswith(("running_mean", "bias")):
        v = 0.05 * v
    elif len(shape) == 1:
        v = 1 + 0.1 * v
    else:
        v = v * np.float32((2 / np.prod(shape[1:])) ** 0.5)
    return torch.from_numpy(np.asarray(v, dtype=np.float32))


def _shapes(reference: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    genes, hidden = int(reference["n_genes"]), int(512 * reference["mlp_ratio"])
    lines = [line.split("\t") for line in (FOLDER / "state_dict_names.tsv").read_text().splitlines()]
    shapes = {name: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for name, shape in lines}
    shapes = {name: tuple(genes if n == 250 else n for n in shape) for name, shape in shapes.items()}
    blocks = "cross_encoder.fusion_layer.layers."
    shapes[f"{blocks}0.1.fn.net.0.weight"] = (hidden, 512)
    shapes[f"{blocks}0.1.fn.net.0.bias"] = (hidden,)
    shapes[f"{blocks}0.1.fn.net.3.weight"] = (512, hidden)
    first = {name: shape for name, shape in shapes.items() if name.startswith(f"{blocks}0.")}
    for block in range(1, int(reference["depth"])):
        shapes |= {name.replace(f"{blocks}0.", f"{blocks}{block}."): shape for name, shape in first.items()}
    return shapes


def _inputs(reference: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    n, genes, rs = int(reference["batch"]), int(reference["n_genes"]), np.random.RandomState(int(reference["salt"]))
    patch = rs.randint(0, 256, size=(n, 9, 224, 224, 3), dtype=np.uint8)
    base = rs.randint(0, 256, size=(n, 9, 7, 7, 3)).astype(np.uint8).repeat(32, 2).repeat(32, 3)
    patch = ((patch.astype(np.uint16) + 3 * base) // 4).astype(np.uint8)
    expression = rs.gamma(1.0, 0.5, size=(n, 9, genes)).astype(np.float32)
    return patch.reshape(-1, 224, 224, 3), expression.reshape(-1, genes)


@dataclass
class Case:
    reference: dict[str, np.ndarray]
    network: nn_.NH2ST
    batch: nn_.NeighborBatch
    output: nn_.Output


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> Case:
    reference = dict(np.load(request.param))
    config = nn_.NetworkConfig(
        n_genes=int(reference["n_genes"]),
        encoder="resnet18",
        depth=int(reference["depth"]),
        heads=int(reference["heads"]),
        mlp_ratio=float(reference["mlp_ratio"]),
    )
    released = {k: _value(k, shape, int(reference["salt"])) for k, shape in _shapes(reference).items()}
    network = nn_.NH2ST(config, encoder_weights=None).eval()
    network.load_state_dict(released_state_dict(released))
    images, expression = _inputs(reference)
    spots = np.arange(len(images)).reshape(-1, 9)
    neighbors = np.full((len(images), 8), -1)
    neighbors[spots[:, 0]] = spots[:, 1:]
    batch = nn_.collate(spots[:, 0], neighbors, images, expression)
    with torch.no_grad():
        output = network(batch)
    return Case(reference, network, batch, output)


def test_encoder(case: Case):
    with torch.no_grad():
        flat = case.network.encoder(case.batch.images).flatten(1)[case.batch.nodes]
    np.testing.assert_allclose(flat.norm(dim=-1), case.reference["encoder_norm"], **CLOSE)
    np.testing.assert_allclose(flat[..., :64], case.reference["encoder_head"], **CLOSE)


def test_incidence(case: Case):
    for incidence, (nodes, edges) in zip(case.output.incidence, case.reference["hyperedge_index"], strict=True):
        assert set(map(tuple, incidence.nonzero().tolist())) == set(zip(nodes.tolist(), edges.tolist(), strict=True))


@pytest.mark.parametrize("name", ["z_image_query", "z_gene_query", "z_image_neighbor", "z_gene_neighbor"])
def test_embeddings(case: Case, name: str):
    np.testing.assert_allclose(getattr(case.output, name), case.reference[name], **CLOSE)


def test_prediction(case: Case):
    expected = case.reference["prediction"]
    np.testing.assert_allclose(case.output.prediction, expected, rtol=0, atol=1e-4 * abs(expected).max())
    predicted = case.network.predict(case.batch.images[case.batch.nodes[:, 0]])
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("name", ["query", "neighbor", "mse"])
def test_losses(case: Case, name: str):
    losses = case.network.losses(case.output, case.batch)
    np.testing.assert_allclose(losses[name], case.reference[f"loss_{name}"], **CLOSE)


def test_lightning_prefix_and_unused_layers_make_no_difference(case: Case):
    released = {f"model.{k}": _value(k, (), 0) for k in _shapes(case.reference)}
    assert released_state_dict(released).keys() == case.network.state_dict().keys()


def test_imported_checkpoint(case: Case, tmp_path: Path):
    state = {f"model.{k}": _value(k, v, int(case.reference["salt"])) for k, v in _shapes(case.reference).items()}
    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace(path=tmp_path)}, tmp_path / "last.ckpt")
    genes = [f"gene{i}" for i in range(int(case.reference["n_genes"]))]
    model = nh.models.from_released(tmp_path / "last.ckpt", genes=genes)
    expected = case.reference["prediction"]
    predicted = model.network.predict(case.batch.images[case.batch.nodes[:, 0]])
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-4 * abs(expected).max())
    assert model.config.depth == int(case.reference["depth"])
    assert model.config.mlp_ratio == float(case.reference["mlp_ratio"])


def test_one_head_has_no_output_projection(case: Case):
    config = nn_.NetworkConfig(**case.network.config.to_dict() | {"heads": 1, "patch_px": 32})
    released = {k: torch.zeros(()) for k in _shapes(case.reference) if ".to_out." not in k}
    network = nn_.NH2ST(config, encoder_weights=None)
    assert released_state_dict(released).keys() == network.state_dict().keys()


def test_incomplete_released_state_lists_names(case: Case):
    released = {k: torch.zeros(()) for k in _shapes(case.reference)}
    del released["fc.bias"]
    with pytest.raises(ValueError, match=r"Missing: fc\.bias\. Unexpected: extra\.weight\."):
        released_state_dict(released | {"extra.weight": torch.zeros(())})

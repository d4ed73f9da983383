"""Compilation changes how the network is computed, and nothing else."""

from __future__ import annotations

import pytest
import torch

from nh2st.nn import NH2ST

COMPILE = torch.compile


@pytest.fixture
def sdata(make_sdata):
    return make_sdata(side=4)


def test_compiled_network_is_the_same_model(sdata, train, monkeypatch, tmp_path):
    plain = train(sdata)
    compiled = []

    def compile_fast(function):
        compiled.append(function)
        return COMPILE(function, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_fast)
    model = train(sdata, compile=True, checkpoint_dir=tmp_path)
    assert len(compiled) == 1
    assert list(model.tensors()) == list(plain.tensors())
    assert model.history == plain.history
    assert model.sha256 == plain.sha256
    names = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert names.keys() == {f"network.{name}" for name in model.network.state_dict()}


def unsupported(function):
    msg = "torch.compile is not supported on this platform"
    raise RuntimeError(msg)


def without_compiler(function):
    def backend(graph, inputs):
        msg = "Compiler: cl is not found.\n\nMore lines of this."
        raise RuntimeError(msg)

    return COMPILE(function, backend=backend)


@pytest.mark.parametrize("compile_by_torch", [unsupported, without_compiler])
def test_training_goes_on_where_compilation_fails(sdata, train, monkeypatch, caplog, compile_by_torch):
    plain = train(sdata)
    monkeypatch.setattr(torch, "compile", compile_by_torch)
    model = train(sdata, compile=True)
    (warning,) = [record.getMessage() for record in caplog.records if "torch.compile failed" in record.getMessage()]
    assert "training goes on without it" in warning
    assert "\n" not in warning
    assert model.sha256 == plain.sha256


def test_errors_of_the_network_are_not_those_of_compilation(sdata, train, monkeypatch):
    def broken(self, batch):
        msg = "the network is broken"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(NH2ST, "forward", broken)
    with pytest.raises(RuntimeError, match="the network is broken"):
        train(sdata, compile=True)

"""What all figures have in common: files, windows and a light import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import pytest
from PIL import Image
from spatialdata import SpatialData

import nh2st as nh


@pytest.fixture(params=["spatial_genes", "gene_correlation", "training_history", "patches", "spatial_neighbors"])
def draw(request, predicted: SpatialData) -> Callable:
    table = predicted["table"]
    table.var["nh2st_pearson"] = 0.5
    nh.pp.spatial_neighbors(predicted)
    model = SimpleNamespace(history=[{"epoch": 0, "loss": 2.0, "mse": 1.0}])
    function = getattr(nh.pl, request.param)
    return {
        "spatial_genes": lambda **options: function(predicted, table.var_names[0], sections="S1", **options),
        "training_history": lambda **options: function(model, **options),
        "patches": lambda **options: function(predicted, n=2, **options),
    }.get(request.param, lambda **options: function(predicted, **options))


def test_figures_are_written_and_closed(draw, tmp_path):
    axes = draw(save=tmp_path / "figure.png")
    assert axes is not None
    assert not plt.get_fignums()
    with Image.open(tmp_path / "figure.png") as image:
        assert min(image.size) > 200


def test_files_that_cannot_be_written_are_refused_before_drawing(draw, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        draw(save=tmp_path / "missing" / "figure.png")
    with pytest.raises(ValueError, match="must end in one of"):
        draw(save=str(tmp_path / "figure.docx"))
    assert not plt.get_fignums()


def test_show_decides_whether_the_figure_is_shown(draw, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert draw(show=False) is not None
    assert draw() is not None
    assert not shown
    assert draw(show=True, save=tmp_path / "figure.pdf") is None
    assert shown == [True]
    assert (tmp_path / "figure.pdf").stat().st_size > 0


def test_interactive_matplotlib_shows_what_is_not_saved(draw, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    monkeypatch.setattr(matplotlib, "is_interactive", lambda: True)
    assert draw() is None
    assert shown == [True]
    assert draw(save=tmp_path / "figure.png") is not None
    assert draw(show=False) is not None
    assert shown == [True]


def test_settings_of_matplotlib_are_left_as_they_were(draw):
    before = dict(matplotlib.rcParams)
    draw()
    assert dict(matplotlib.rcParams) == before


def test_importing_the_figures_does_not_import_torch():
    code = "import sys, nh2st.pl; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

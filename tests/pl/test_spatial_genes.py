from __future__ import annotations

import os
import re

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from scipy.stats import pearsonr
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale, get_transformation

import nh2st as nh


def circles(ax: Axes) -> EllipseCollection:
    (found,) = (drawn for drawn in ax.collections if isinstance(drawn, EllipseCollection))
    return found


def values(ax: Axes) -> np.ndarray:
    return np.asarray(circles(ax).get_array())


def log_normalized(table: AnnData) -> AnnData:
    """Scanpy's own, of all genes."""
    normalized = AnnData(table.X.copy(), obs=table.obs, var=table.var[[]])
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    return normalized


def test_maps_are_the_stored_predictions_and_the_normalised_counts(predicted):
    table = predicted["table"]
    first, second = table.var_names[:2]
    axes = nh.pl.spatial_genes(predicted, [first, second])
    assert axes.shape == (4, 2)
    truth = log_normalized(table)
    rows = [(section, gene) for section in ("S1", "S2") for gene in (first, second)]
    for (measured, prediction), (section, gene) in zip(axes, rows, strict=True):
        mine = (table.obs["region"] == section).to_numpy()
        stored = table.layers["nh2st"][:, [table.var_names.get_loc(gene)]].toarray()[mine, 0]
        counted = truth[mine, gene].X.toarray()[:, 0]
        np.testing.assert_array_equal(values(prediction), stored)
        np.testing.assert_allclose(values(measured), counted, rtol=1e-5)
        assert measured.get_ylabel() == section
        assert gene in measured.get_title(loc="left")
        assert f"PCC {pearsonr(counted, stored)[0]:.2f}" in prediction.get_title(loc="left")


def test_both_maps_of_a_row_share_robust_colour_limits_and_one_colour_bar_with_the_unit(predicted):
    gene = predicted["table"].var_names[0]
    for measured, prediction in nh.pl.spatial_genes(predicted, gene):
        both = np.concatenate([values(measured), values(prediction)])
        assert circles(measured).get_clim() == circles(prediction).get_clim()
        np.testing.assert_allclose(circles(prediction).get_clim(), np.percentile(both, [1, 99]))
        assert circles(measured).colorbar is None
        label = circles(prediction).colorbar.ax.get_ylabel()
        assert label.replace("\n", ", ") == "ln(1 + x), counts per 10,000 of all genes"


def test_colour_limits_can_be_given(predicted):
    axes = nh.pl.spatial_genes(predicted, predicted["table"].var_names[0], vmin=1, vmax=2.5, sections="S1")
    assert [circles(ax).get_clim() for ax in axes[0]] == [(1, 2.5)] * 2


def test_smoothed_truth_is_the_mean_over_the_window(predicted):
    table = predicted["table"]
    gene = table.var_names[1]
    axes = nh.pl.spatial_genes(predicted, gene, smoothed=True, sections="S1")
    truth = log_normalized(table)[(table.obs["region"] == "S1").to_numpy(), gene].X.toarray().reshape(5, 5)
    window_means = [truth[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean() for i in range(5) for j in range(5)]
    np.testing.assert_allclose(values(axes[0, 0]), window_means, rtol=1e-5)
    assert "smoothed" in axes[0, 0].get_title(loc="left")


def test_targets_of_the_panel_are_scaled_to_the_sum_of_the_whole_panel(sdata, predict):
    table = predict(sdata, target="paper")["table"]
    axes = nh.pl.spatial_genes(sdata, table.var_names[2], sections="S1")
    counts = table.X.toarray()[(table.obs["region"] == "S1").to_numpy(), :11]
    np.testing.assert_allclose(values(axes[0, 0]), np.log10(1 + 1e4 * counts[:, 2] / counts.sum(axis=1)), rtol=1e-4)


def test_circles_have_the_place_and_the_radius_of_the_spots_in_pixels(predicted):
    _, ax = nh.pl.spatial_genes(predicted, predicted["table"].var_names[0], sections="S1")[0]
    shapes = predicted["S1"]
    drawn = circles(ax)
    np.testing.assert_allclose(drawn.get_offsets(), np.column_stack([shapes.geometry.x, shapes.geometry.y]))
    np.testing.assert_allclose(drawn.get_widths(), 2 * shapes["radius"])
    np.testing.assert_allclose(drawn.get_heights(), 2 * shapes["radius"])
    # A circle of radius 1 goes through both of the collection's transforms.
    ax.figure.draw_without_rendering()
    edge = drawn.get_transforms()[0, 0, 0] * drawn.get_transform().get_matrix()[0, 0]
    (unit, _), (zero, _) = ax.transData.transform([[1, 0], [0, 0]])
    assert edge == pytest.approx(shapes["radius"].iloc[0] * (unit - zero))
    assert ax.get_aspect() == 1


def test_circles_follow_the_transformation_of_the_image(predicted):
    image = Image2DModel.parse(
        np.full((3, 300, 300), 200, dtype=np.uint8),
        c_coords=["r", "g", "b"],
        transformations={"S1": Scale([2, 2], ("x", "y"))},
    )
    moved = SpatialData(
        images={"image": image}, shapes={"S1": predicted["S1"]}, tables={"table": only(predicted, "S1")}
    )
    (ax,) = nh.pl.spatial_genes(moved, predicted["table"].var_names[0])[0, 1:]
    np.testing.assert_allclose(circles(ax).get_widths(), predicted["S1"]["radius"])
    np.testing.assert_allclose(circles(ax).get_offsets()[:, 0], predicted["S1"].geometry.x / 2)


def only(sdata: SpatialData, section: str) -> AnnData:
    table = sdata["table"][sdata["table"].obs["region"] == section].copy()
    table.obs["region"] = table.obs["region"].cat.remove_unused_categories()
    table.uns["spatialdata_attrs"]["region"] = section
    return table


def test_the_image_lies_under_the_spots_where_it_belongs_and_is_read_coarsely(predicted):
    pixels = np.full((3, 4000, 4000), 255, dtype=np.uint8)
    pixels[:, 1200:, 1600:] = 0
    system = get_transformation(predicted["S1"], get_all=True)
    image = Image2DModel.parse(pixels, c_coords=["r", "g", "b"], transformations={"S1": Scale([0.2, 0.2], ("x", "y"))})
    assert list(system) == ["S1"]
    moved = SpatialData(
        images={"image": image}, shapes={"S1": predicted["S1"]}, tables={"table": only(predicted, "S1")}
    )
    ax = nh.pl.spatial_genes(moved, predicted["table"].var_names[0])[0, 0]
    (drawn,) = ax.images
    shown = np.asarray(drawn.get_array()).mean(axis=-1)
    left, right, bottom, top = drawn.get_extent()
    height, width = shown.shape
    assert max(height, width) <= 1000
    pixel = (right - left) / width
    assert left + (shown[-1] > 200).sum() * pixel == pytest.approx(1600, abs=2 * pixel)
    assert top + (shown[:, -1] > 200).sum() * pixel == pytest.approx(1200, abs=2 * pixel)
    assert ax.get_xlim()[0] < 500 - 5 * 50
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_the_scale_bar_has_the_length_that_it_says(predicted):
    predicted.attrs["nh2st"]["mpp"] = {"S1_image": 0.5, "S2_image": 0.5}
    ax = nh.pl.spatial_genes(predicted, predicted["table"].var_names[0], sections="S1")[0, 0]
    (bar,), (label,) = ax.lines, ax.texts
    length, unit = label.get_text().split()
    assert unit == "µm"
    assert np.ptp(bar.get_xdata()) * 0.5 == pytest.approx(float(length))


def test_there_is_no_scale_bar_where_the_scale_is_unknown(predicted):
    predicted.attrs = {}
    ax = nh.pl.spatial_genes(predicted, predicted["table"].var_names[0], sections="S1")[0, 0]
    assert not ax.lines
    assert not ax.texts


def test_genes_that_were_not_predicted_are_refused(predicted):
    table = predicted["table"]
    gene = table.var_names[0]
    with pytest.raises(KeyError, match=f"not among the 12 genes.*Close to it: .*{gene}"):
        nh.pl.spatial_genes(predicted, gene.lower())
    with pytest.raises(KeyError, match="is in the table, but not in the panel"):
        nh.pl.spatial_genes(predicted, table.var_names[15])
    with pytest.raises(ValueError, match="No gene"):
        nh.pl.spatial_genes(predicted, [])


def test_data_without_predictions_name_the_call_to_make(sdata):
    with pytest.raises(KeyError, match=re.escape("nh.tl.predict")):
        nh.pl.spatial_genes(sdata, sdata["table"].var_names[0])


def test_genes_that_the_table_lacks_are_drawn_from_obsm(predicted):
    table = predicted["table"]
    axes = nh.pl.spatial_genes(predicted, ["LOST", table.var_names[0]], sections="S2")
    assert not any(isinstance(drawn, EllipseCollection) for drawn in axes[0, 0].collections)
    assert "not measured" in axes[0, 0].get_title(loc="left")
    stored = table.obsm["nh2st"]["LOST"][table.obs["region"] == "S2"]
    np.testing.assert_array_equal(values(axes[0, 1]), stored)


@pytest.mark.parametrize("counts", ["none", "zeros"])
def test_without_counts_predictions_are_drawn_alone(predicted, counts):
    table = predicted["table"]
    table.X = None if counts == "none" else 0 * table.X
    axes = nh.pl.spatial_genes(predicted, table.var_names[0])
    assert axes.shape == (2, 1)
    assert axes[0, 0].get_title(loc="left") == f"{table.var_names[0]}, predicted"


def test_sections_and_spots_that_were_not_predicted_are_left_out(sdata, predict):
    table = predict(sdata, rows=slice(0, 20))["table"]
    axes = nh.pl.spatial_genes(sdata, table.var_names[0])
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["S1"]
    assert [len(values(ax)) for ax in axes[0]] == [20, 20]
    with pytest.raises(ValueError, match="'S2' was predicted"):
        nh.pl.spatial_genes(sdata, table.var_names[0], sections="S2")


def test_several_objects_are_drawn_under_their_names(predicted, predict):
    other = nh.datasets.synthetic(1, spots_per_side=3, n_genes=20, seed=1)
    axes = nh.pl.spatial_genes({"a": predicted, "b": predict(other)}, predicted["table"].var_names[0])
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["a.S1", "a.S2", "b.S1"]


def test_the_correlation_of_constant_predictions_is_undefined(predicted):
    table = predicted["table"]
    table.layers["nh2st"][:, 0] = 1.5
    axes = nh.pl.spatial_genes(predicted, table.var_names[0], sections="S1")
    assert "PCC undefined" in axes[0, 1].get_title(loc="left")


def test_an_anndata_is_drawn_without_image(predicted):
    table = predicted["table"]
    axes = nh.pl.spatial_genes(table, table.var_names[0], image=False)
    assert not axes[0, 0].images
    offsets = circles(axes[0, 1]).get_offsets()
    np.testing.assert_array_equal(offsets, table.obsm["spatial"][(table.obs["region"] == "S1").to_numpy()])
    # No radius is known: circles of neighbours touch.
    np.testing.assert_allclose(circles(axes[0, 1]).get_widths(), 100)
    with pytest.raises(TypeError, match="needs the image"):
        nh.pl.spatial_genes(table, table.var_names[0])


def test_a_single_spot_is_drawn(predicted):
    table = predicted["table"]
    table.obs["one"] = np.arange(table.n_obs) == 7
    axes = nh.pl.spatial_genes(predicted, table.var_names[0], spots="one")
    assert len(values(axes[0, 0])) == 1


@pytest.mark.skipif("NH2ST_DATA_DIR" not in os.environ, reason="NH2ST_DATA_DIR is not set")
def test_real_sections_are_drawn(predict):
    sdata = predict(nh.datasets.her2st(["B4"]))
    gene = sdata["table"].var_names[0]
    measured, prediction = nh.pl.spatial_genes(sdata, gene)[0]
    assert len(values(measured)) == sdata["table"].n_obs
    left, right, bottom, top = measured.images[0].get_extent()
    x, y = circles(prediction).get_offsets().T
    assert left < x.min() < x.max() < right
    assert top < y.min() < y.max() < bottom
    # Spots are 100 um wide.
    mpp = next(iter(sdata.attrs["nh2st"]["mpp"].values()))
    np.testing.assert_allclose(circles(measured).get_widths() * mpp, 100, rtol=0.01)

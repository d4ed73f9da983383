"""Names that cannot be stored, wherever a function takes one."""

from __future__ import annotations

import anndata as ad
import pytest

import nh2st as nh

BAD = {
    "a/b": "use letters",
    "../x": "use letters",
    "a b": "use letters",
    "ä": "use letters",
    "a\n": "use letters",
    "": "use letters",
    "x" * 101: "at most 100 characters",
    ".": "does not start with '.'",
    "..": "does not start with '.'",
    ".hidden": "does not start with '.'",
    "__x": "does not start with '.' or '__'",
    "x.": "does not end with '.'",
    "con": "Windows keeps this name",
    "NUL.txt": "Windows keeps this name",
    "lpt1": "Windows keeps this name",
}


@pytest.fixture
def writers(model, encoder):
    return {
        "normalize": lambda data, key: nh.pp.normalize(data, key_added=key),
        "smooth": lambda data, key: nh.pp.smooth(data, layer="normal", key_added=key),
        "spatial_neighbors": lambda data, key: nh.pp.spatial_neighbors(data, key_added=key),
        "embed": lambda data, key: nh.pp.embed(data, key_added=key, **encoder),
        "predict": lambda data, key: nh.tl.predict(data, model, key_added=key, device="cpu"),
        "cross_validate": lambda data, key: nh.tl.cross_validate(data, genes=["gene1"], key_added=key, **encoder),
    }


WRITERS = ["normalize", "smooth", "spatial_neighbors", "embed", "predict", "cross_validate"]


@pytest.mark.parametrize("name", BAD)
def test_names_that_cannot_be_stored(full, writers, contents, same, name):
    before = contents(full["table"].copy())
    for writer in WRITERS:
        if (writer, name) == ("smooth", ""):
            continue  # the name that follows from the layer
        with pytest.raises(ValueError, match=f"key_added=.* cannot be stored: .*{BAD[name]}"):
            writers[writer](full, name)
    same(contents(full["table"]), before)


@pytest.mark.parametrize("writer", WRITERS)
def test_names_that_are_no_text(full, writers, writer):
    with pytest.raises(ValueError, match="key_added=5 cannot be stored: use letters"):
        writers[writer](full, 5)


@pytest.mark.parametrize("name", ["counts", "training", "tiles"])
def test_names_that_mean_something_else(full, writers, name):
    for writer in WRITERS:
        with pytest.raises(ValueError, match=f"key_added='{name}' is reserved"):
            writers[writer](full, name)


@pytest.mark.parametrize(
    ("writer", "name", "place"),
    [
        ("normalize", "Mine", r"layers\['mine'\]"),
        ("smooth", "NORMAL", r"layers\['normal'\]"),
        ("embed", "Mine", r"obsm\['mine'\]"),
        ("embed", "Predicted", r"uns\['nh2st'\]\['predicted'\]"),
        ("predict", "Ridged", r"layers\['ridged_ridge'\]"),
        ("predict", "Marked", r"var\['marked_predicted'\]"),
        ("cross_validate", "OWN", r"obs\['own_fold'\]"),
        ("spatial_neighbors", "Spatial", r"obsp\['spatial_connectivities'\]"),
    ],
)
def test_names_that_differ_by_case_alone(full, writers, contents, same, writer, name, place):
    before = contents(full["table"].copy())
    with pytest.raises(ValueError, match=f"key_added='{name}' differs from {place} by case alone"):
        writers[writer](full, name)
    same(contents(full["table"]), before)


def test_longest_name_is_stored(full, writers, tmp_path):
    name = "x" * 100
    for writer in ("normalize", "predict", "spatial_neighbors"):
        writers[writer](full, name[: -len(writer)] + writer)
    full.write(tmp_path / "sections.zarr")
    full["table"].write_h5ad(tmp_path / "table.h5ad")
    read = ad.read_h5ad(tmp_path / "table.h5ad")
    assert {name[: -len(key)] + key for key in ("normalize", "predict")} <= set(read.layers)


def test_name_of_the_smoothed_layer_follows_from_the_layer(full):
    full["table"].layers["my layer"] = full["table"].X.copy()
    with pytest.raises(ValueError, match="key_added='my layer_smooth' cannot be stored"):
        nh.pp.smooth(full, layer="my layer")
    nh.pp.smooth(full, layer="my layer", key_added="other")
    assert "other" in full["table"].layers

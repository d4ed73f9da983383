"""Spot centres and radii of a spatial element, and the affine maps between coordinate systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from spatialdata import SpatialData
from spatialdata.models import get_axes_names
from spatialdata.transformations import get_transformation

_XY = ("x", "y")


def systems_of(element: Any) -> list[str]:
    """Names of the coordinate systems that the element has a transformation to."""
    return sorted(get_transformation(element, get_all=True))


def affine_to(element: Any, coordinate_system: str) -> np.ndarray:
    """3 x 3 matrix from the element's own x, y to those of the coordinate system."""
    transformation = get_transformation(element, to_coordinate_system=coordinate_system)
    return np.asarray(transformation.to_affine_matrix(input_axes=_XY, output_axes=_XY), dtype=np.float64)


def apply_affine(matrix: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Map points of shape (n, 2) through a 3 x 3 matrix."""
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


def length_scale(matrix: np.ndarray) -> float:
    """Factor by which an affine map stretches lengths, averaged over directions."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def spots_element(sdata: SpatialData, key: str, table_key: str) -> Any:
    """Element that holds the spots.

    Raises
    ------
    KeyError
        If the element is missing.
    TypeError
        If it is neither shapes nor points.
    """
    if key in sdata.shapes:
        return sdata.shapes[key]
    if key in sdata.points:
        return sdata.points[key]
    if key in sdata.labels:
        msg = (
            f"Table {table_key!r} annotates the labels {key!r}; spots must be shapes or points. Convert them with "
            f"`spatialdata.to_circles(sdata[{key!r}])` and annotate the result."
        )
        raise TypeError(msg)
    there = ", ".join(repr(name) for name in [*sdata.shapes, *sdata.points]) or "none"
    msg = (
        f"Table {table_key!r} annotates the region {key!r}, which is not in the object (shapes and points: {there}). "
        "Add the element, or annotate another with `sdata.set_table_annotates_spatialelement(...)`."
    )
    raise KeyError(msg)


def instances(element: Any) -> pd.Index:
    """Instance ids of the element, in its order."""
    index = element.index
    return index.compute() if hasattr(index, "compute") else index


def centers_and_radii(element: Any, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2) and radii (n,) of the instances at `positions`, in the element's own coordinates.

    Polygons have the radius of the circle of the same area; points have none (NaN).
    """
    if "geometry" not in getattr(element, "columns", ()):
        frame = element[[axis for axis in get_axes_names(element) if axis in _XY]].compute()
        return frame[list(_XY)].to_numpy(dtype=np.float64)[positions], np.full(len(positions), np.nan)
    geometry = element.geometry.iloc[positions]
    centroid = geometry.centroid
    centers = np.column_stack([centroid.x.to_numpy(), centroid.y.to_numpy()]).astype(np.float64)
    if "radius" in element.columns:
        return centers, element["radius"].to_numpy(dtype=np.float64)[positions]
    return centers, np.sqrt(geometry.area.to_numpy(dtype=np.float64) / np.pi)

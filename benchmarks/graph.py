"""Speed of the spatial graph, beside squidpy in the same run, and of the network's neighbourhoods.

Needs nh2st and squidpy. Prints seconds, and microseconds a point as the points grow, on scattered points and on a
square array.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Callable

import numpy as np
import squidpy as sq
import torch
from _common import describe_machine, peak_memory_gb, print_table
from anndata import AnnData

import nh2st as nh
from nh2st._sections import find_spots
from nh2st._space import neighborhood

GROWTH = (1, 4, 16)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--points", type=int, default=62_500, help="points of the smallest graph")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    nh.settings.verbosity = "warning"
    print(describe_machine(torch.device("cpu")))
    for title, points, ours, theirs in (
        ("Scattered points, six nearest", scattered, ours_nearest, squidpy_nearest),
        ("Scattered points, all within a radius", scattered, ours_radius, squidpy_radius),
        ("Square array, four adjacent", square_array, ours_grid, squidpy_grid),
    ):
        compare(title, [points(options.points * factor) for factor in GROWTH], ours, theirs)
    print(f"\nPeak memory: {peak_memory_gb(torch.device('cpu'))}")


def compare(title: str, tables: list[AnnData], ours: Callable, theirs: Callable) -> None:
    """Time both, check that they agree, and print."""
    rows = []
    for table in tables:
        seconds = timed(ours, table)
        graph = table.obsp.pop("spatial_connectivities")
        seconds_squidpy = timed(theirs, table)
        same = (graph != table.obsp["spatial_connectivities"]).nnz == 0
        seconds_network = timed(lambda data: [neighborhood(spots.grid) for spots in find_spots(data)], table)
        rows.append(
            [
                f"{table.n_obs:,}",
                f"{seconds:.2f}",
                f"{1e6 * seconds / table.n_obs:.1f}",
                f"{seconds_squidpy:.2f}",
                f"{seconds_squidpy / seconds:.2f}",
                "yes" if same else "no",
                f"{seconds_network:.2f}",
            ]
        )
    header = ["points", "nh2st s", "us a point", "squidpy s", "squidpy / nh2st", "equal", "network's neighbourhood s"]
    print_table(title, header, rows)


def timed(run: Callable[[AnnData], object], table: AnnData) -> float:
    """Seconds of one run."""
    gc.collect()
    started = time.perf_counter()
    run(table)
    return time.perf_counter() - started


def scattered(n_points: int) -> AnnData:
    """Points at random, on average one in a unit square."""
    xy = np.random.default_rng(0).random((n_points, 2)) * np.sqrt(n_points)
    return AnnData(obsm={"spatial": xy})


def square_array(n_points: int) -> AnnData:
    """Points of a square array, with a little noise in their places."""
    side = round(np.sqrt(n_points))
    row, col = np.divmod(np.arange(side * side), side)
    noise = np.random.default_rng(0).normal(scale=0.01, size=(side * side, 2))
    table = AnnData(obsm={"spatial": np.column_stack([col, row]) + noise})
    table.obs["array_row"], table.obs["array_col"] = row, col
    return table


def ours_nearest(table: AnnData) -> None:
    nh.pp.spatial_neighbors(table, n_neighs=6, coord_type="generic")


def squidpy_nearest(table: AnnData) -> None:
    sq.gr.spatial_neighbors_knn(table, n_neighs=6)


def ours_radius(table: AnnData) -> None:
    nh.pp.spatial_neighbors(table, radius=1.5)


def squidpy_radius(table: AnnData) -> None:
    sq.gr.spatial_neighbors_radius(table, radius=1.5)


def ours_grid(table: AnnData) -> None:
    nh.pp.spatial_neighbors(table, n_neighs=4, coord_type="grid")


def squidpy_grid(table: AnnData) -> None:
    sq.gr.spatial_neighbors_grid(table, n_neighs=4)


if __name__ == "__main__":
    main()

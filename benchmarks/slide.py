"""Whole slides and Visium HD: time and peak memory above the imports.

Needs nh2st. Predicts spots all over a square multiscale image that is made up and written to a temporary folder;
weights are random. The settings of a whole slide are the defaults; those of a Visium HD section are
`--side-px 12000 --spots 500000 --patch-px 32 --other-genes 18000`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _common import describe_machine, peak_memory_bytes, print_table
from _slides import random_model, square_grid, with_spots, write_slide

import nh2st as nh

PARTS = (16, 4, 1)


def main() -> None:
    """Measure and print."""
    options = parse_options()
    warnings.filterwarnings("ignore")
    nh.settings.verbosity = "error"
    nh.settings.memory_limit = options.memory_limit
    print(f"{describe_machine(torch.device('cpu'))}\n{options}")
    model = random_model(options.encoder, options.patch_px, options.genes, map_px=1)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = write_slide(Path(folder), options.side_px)
        # Memory is known as a peak only, so that the smallest goes first.
        before = peak_memory_bytes()
        for part in PARTS:
            centers = square_grid(options.spots // part, options.side_px, options.patch_px)
            started = time.perf_counter()
            sdata = with_spots(path, centers, model.genes, options.other_genes)
            nh.tl.predict(sdata, model, batch_size=options.batch_size, mpp="native", device="cpu")
            seconds = time.perf_counter() - started
            peak = (peak_memory_bytes() - before) / 1e9
            layer = sdata["table"].layers["nh2st"]
            n_spots, nbytes = len(centers), layer.nbytes if isinstance(layer, np.ndarray) else layer.data.nbytes
            kind = f"{type(layer).__name__}, {nbytes / 1e9:.2f} GB of values"
            rows.append([f"{n_spots:,}", f"{seconds:.1f}", f"{1e3 * seconds / n_spots:.3f}", f"{peak:.2f}", kind])
            del sdata, layer
    header = ["spots", "seconds", "ms a spot", "peak GB above the start", "layer"]
    print_table(f"Image of {options.side_px:,} x {options.side_px:,} px", header, rows)


def parse_options() -> argparse.Namespace:
    """Settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--encoder", default="test_resnet", help="an encoder of timm; the default is tiny")
    parser.add_argument("--side-px", type=int, default=40_000)
    parser.add_argument("--spots", type=int, default=100_000)
    parser.add_argument("--patch-px", type=int, default=128)
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--other-genes", type=int, default=0, help="genes of the table that are not in the panel")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--memory-limit", default="1GB", help="what the reader may hold")
    parser.add_argument("--folder", default=None, help="where the image is written")
    return parser.parse_args()


if __name__ == "__main__":
    main()

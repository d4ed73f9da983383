"""What the benchmark scripts share: made-up spots, timing side by side, and how results are printed."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

_MAX_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class MadeUpSpots:
    """Sections of spots on a square array, as the network takes them; speed does not depend on what they show."""

    images: np.ndarray
    expression: np.ndarray
    neighbors: np.ndarray
    coordinates: np.ndarray
    section: np.ndarray

    def __len__(self) -> int:
        return len(self.section)


def made_up_spots(n_spots: int, patch_px: int, n_genes: int, *, n_sections: int = 4, seed: int = 0) -> MadeUpSpots:
    """Square sections that hold `n_spots` together, every spot with its up to eight array neighbours."""
    rng = np.random.default_rng(seed)
    side = max(2, round(np.sqrt(n_spots / n_sections)))
    row, col = np.divmod(np.arange(side * side), side)
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    y, x = (axis[:, None] + np.array([step[n] for step in steps]) for n, axis in enumerate((row, col)))
    around = np.where((y >= 0) & (y < side) & (x >= 0) & (x < side), y * side + x, -1)
    neighbors = np.concatenate([np.where(around >= 0, around + n * side * side, -1) for n in range(n_sections)])
    total = n_sections * side * side
    return MadeUpSpots(
        images=rng.integers(0, 256, (total, patch_px, patch_px, 3), dtype=np.uint8),
        expression=rng.random((total, n_genes), dtype=np.float32),
        neighbors=neighbors,
        coordinates=np.tile(np.column_stack([col, row]), (n_sections, 1)),
        section=np.repeat(np.arange(n_sections), side * side),
    )


def side_by_side(
    runs: Mapping[str, Callable[[], int]], device: torch.device, repeats: int, *, warm_up: bool = True
) -> dict[str, float]:
    """Items per second of each run: the median of `repeats` turns, taken in rotation after one turn to warm up.

    Taking turns lets all runs suffer alike from whatever else the machine does.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(int(not warm_up), repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            n_items = run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append((time.perf_counter() - started) / n_items)
    return {name: 1 / statistics.median(values) for name, values in seconds.items()}


def peak_memory_bytes() -> int:
    """Most memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAX_RSS_UNIT


def peak_memory_gb(device: torch.device) -> str:
    """Most memory that this process has held so far, on the GPU too, as a text."""
    host = peak_memory_bytes() / 1e9
    if device.type != "cuda":
        return f"{host:.2f} GB"
    return f"{host:.2f} GB, on the GPU {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"


def describe_machine(device: torch.device) -> str:
    """Processor or GPU, threads and version of torch, in one line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}; {torch.get_num_threads()} threads; Python {platform.python_version()}; torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    print(f"\n{title}\n")
    for row in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    sys.stdout.flush()

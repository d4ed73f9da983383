"""Speed of prediction from a SpatialData on disk, beside the bare encoder, the bare reader and the released way.

Needs nh2st. The slide is made up and written to a temporary folder; weights are random, as the speed does not depend on
them. A call of `nh.tl.predict` is timed whole: opening the store, reading, resampling, the network, writing the layer.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from _common import describe_machine, peak_memory_gb, print_table, side_by_side
from _released import ENCODINGS_PER_SPOT, released_predict
from _slides import random_model, square_grid, with_spots, write_slide
from torch import Tensor

import nh2st as nh
from nh2st._inference._openvino import with_openvino
from nh2st._patches import iter_batches
from nh2st._sections import find_sections, patch_windows
from nh2st.models import Model
from nh2st.nn import NH2ST

GROWTH = (1, 4, 16)
END_TO_END, NETWORK, ENCODER = "nh2st, from disk to layer", "bare network", "bare encoder"
READER, RELEASED = "bare reader", "released way"
WAYS = {
    ", by torch": {"openvino": False, "precision": "auto"},
    ", by OpenVINO": {"openvino": True, "precision": "auto"},
    ", by OpenVINO in 8-bit integers": {"openvino": True, "precision": "int8"},
}


def main() -> None:
    """Measure and print."""
    options = parse_options()
    device = torch.device(options.device)
    warnings.filterwarnings("ignore")
    nh.settings.verbosity = "error"
    print(f"{describe_machine(device)}\n{options.encoder}, {options.patch_px} px, {options.genes} genes")
    model = random_model(options.encoder, options.patch_px, options.genes)
    ways = usable_ways(device)
    with tempfile.TemporaryDirectory() as folder:
        path = write_slide(Path(folder), options.side_px)
        runs = {READER: lambda: bare_reader(options, path, options.spots), RELEASED: released(options, model, device)}
        for name in ways:
            runs[END_TO_END + name] = partial(end_to_end, options, path, model, options.spots, **WAYS[name])
            network = run_by(name, model.network, options.patch_px).to(device).eval()
            runs[NETWORK + name] = bare(options, network.predict, device)
            runs[ENCODER + name] = bare(options, network.encoder, device)
        rates = side_by_side(runs, device, options.repeats)
        growth = [timed_growth(options, path, model, device, factor, ways) for factor in GROWTH]
    print_rates(rates, ways)
    rows = [
        [f"x{factor}", str(options.spots * factor), *(f"{1000 / rate:.2f}" for rate in rates.values())]
        for factor, rates in zip(GROWTH, growth, strict=True)
    ]
    print_table("Milliseconds a spot as the spots grow, from disk to layer", ["", "spots", *growth[0]], rows)
    print(f"\nPeak memory: {peak_memory_gb(device)}")


def usable_ways(device: torch.device) -> list[str]:
    """Ways to run the encoder for which the packages are there."""
    there = [True, find_spec("openvino"), find_spec("openvino") and find_spec("nncf")]
    return [name for name, usable in zip(WAYS, there, strict=True) if usable][: None if device.type == "cpu" else 1]


def run_by(way: str, network: NH2ST, patch_px: int) -> NH2ST:
    """The network as it is run in a way."""
    if not WAYS[way]["openvino"]:
        return network
    return with_openvino(network, patch_px, "int8" if WAYS[way]["precision"] == "int8" else "32")


def print_rates(rates: dict[str, float], ways: list[str]) -> None:
    """Print speeds beside those of the bare network and encoder, run in the same way, and of the released way."""
    rows = []
    for name, rate in rates.items():
        its_way = next((way for way in reversed(ways) if name.endswith(way)), ways[0])
        compared = [NETWORK + its_way, ENCODER + its_way, ENCODER + ways[0]]
        ratios = [f"{rate / rates[other]:.2f}" for other in compared]
        rows.append([name, f"{rate:.1f}", *ratios, f"{rate / rates[RELEASED]:.1f}"])
    header = ["", "spots/s", "of the bare network's", "of the bare encoder's", "of that by torch", "x released way"]
    print_table("Prediction", header, rows)


def parse_options() -> argparse.Namespace:
    """Settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--encoder", default="resnet18", help="a convolutional encoder of timm")
    parser.add_argument("--patch-px", type=int, default=224)
    parser.add_argument("--window-px", type=int, default=300, help="pixels of the image that a patch is made from")
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--spots", type=int, default=256)
    parser.add_argument("--side-px", type=int, default=10_000, help="side of the image")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median is taken")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def end_to_end(
    options: argparse.Namespace, path: Path, model: Model, n_spots: int, *, openvino: bool, precision: str
) -> int:
    """Open the store, predict, write the layer; how many spots there were."""
    nh.settings.openvino = openvino
    sdata = with_spots(path, square_grid(n_spots, options.side_px, options.window_px), model.genes)
    # The scale at which a window of the model's patch size covers the wanted pixels.
    model.patch_um = float(options.window_px)
    place = {"device": options.device, "precision": precision}
    nh.tl.predict(sdata, model, batch_size=options.batch_size, mpp=1.0, **place)
    return sdata["table"].n_obs


def bare_reader(options: argparse.Namespace, path: Path, n_spots: int) -> int:
    """Read and resample the patches alone; how many there were."""
    sdata = with_spots(path, square_grid(n_spots, options.side_px, options.window_px), ["gene"])
    (section,) = find_sections(sdata)
    windows = patch_windows(section, patch_um=options.window_px, patch_px=options.patch_px, mpp=1.0)
    return sum(len(members) for members, _ in iter_batches(section.image, windows, options.batch_size))


def bare(options: argparse.Namespace, compute: Callable[[Tensor], Tensor], device: torch.device) -> Callable[[], int]:
    """Patches that lie on the device through a module alone, in the precision of the prediction."""
    shape = (options.batch_size, options.patch_px, options.patch_px, 3)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).to(device)

    def run() -> int:
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            for _ in range(max(1, options.spots // options.batch_size)):
                compute(images)
        return max(1, options.spots // options.batch_size) * options.batch_size

    return run


def released(options: argparse.Namespace, model: Model, device: torch.device) -> Callable[[], int]:
    """Predict some targets one by one, each with its neighbourhood; patches lie in memory."""
    network = model.network.to(device).eval()
    shape = (ENCODINGS_PER_SPOT, options.patch_px, options.patch_px, 3)
    patches = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).to(device)

    def run() -> int:
        for patch in patches:
            released_predict(network, patch)
        return len(patches)

    return run


def timed_growth(
    options: argparse.Namespace, path: Path, model: Model, device: torch.device, factor: int, ways: list[str]
) -> dict[str, float]:
    """Spots per second of a single call with `factor` times the spots, in each way."""
    n_spots = options.spots * factor
    runs = {name.strip(", "): partial(end_to_end, options, path, model, n_spots, **WAYS[name]) for name in ways}
    return side_by_side(runs, device, 1, warm_up=False)


if __name__ == "__main__":
    main()

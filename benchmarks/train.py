"""Training speed: the released way of computing, nh2st's, and nh2st's with a frozen, cached encoder, side by side.

Needs torch, timm and numpy alone. Patches are made up and lie in memory, and weights are random: the speed depends on
neither. Run `python benchmarks/train.py --help` for the settings.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from _common import MadeUpSpots, describe_machine, made_up_spots, peak_memory_gb, print_table, side_by_side
from _released import BATCH_SIZE, ENCODINGS_PER_SPOT, released_forward

from nh2st.nn import NH2ST, NetworkConfig, collate, create_encoder, spatial_batches, training_step

RELEASED, BARE = "released way", "bare encoder, forward + backward"
FINE_TUNED, FROZEN = "nh2st, fine-tuned", "nh2st, frozen encoder, cached maps"
GROWTH = (1, 4, 16)


def main() -> None:
    """Measure and print."""
    options = parse_options()
    device = torch.device(options.device)
    torch.manual_seed(0)
    print(f"{describe_machine(device)}\n{options.encoder}, {options.patch_px} px, {options.genes} genes")
    spots = made_up_spots(options.spots, options.patch_px, options.genes)
    fine_tuned, frozen = FineTuned(options, spots, device), Frozen(options, spots, device)
    runs: dict[str, Callable[[], int]] = {
        RELEASED: released(options, spots, device),
        FINE_TUNED: lambda: sum(fine_tuned.step() for _ in range(options.steps)),
        FROZEN: lambda: sum(frozen.step() for _ in range(options.steps)),
        BARE: bare_encoder(options, device),
    }
    report(side_by_side(runs, device, options.repeats), fine_tuned.encodings_per_spot)
    print(f"\nPeak memory: {peak_memory_gb(device)}")
    growth(options, device)


def parse_options() -> argparse.Namespace:
    """Settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--encoder", default="resnet18", help="a convolutional encoder of timm")
    parser.add_argument("--patch-px", type=int, default=224)
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--spots", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=16, help="targets in a batch; the released way has 8")
    parser.add_argument("--frozen-batch-size", type=int, default=128, help="the same with a frozen encoder")
    parser.add_argument("--steps", type=int, default=2, help="steps of nh2st in one turn; the released way takes one")
    parser.add_argument("--repeats", type=int, default=5, help="turns, of which the median is taken")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "32", "bf16-mixed"])
    options = parser.parse_args()
    if options.precision == "auto":
        options.precision = "bf16-mixed" if options.device.startswith("cuda") else "32"
    return options


def new_network(options: argparse.Namespace, device: torch.device) -> NH2ST:
    """Make the network of the publication with random weights."""
    config = NetworkConfig(n_genes=options.genes, encoder=options.encoder, patch_px=options.patch_px)
    return NH2ST(config, encoder_weights=None).to(device).train()


def released(options: argparse.Namespace, spots: MadeUpSpots, device: torch.device) -> Callable[[], int]:
    """One step of the released way: float32, batches of 8 scattered spots, Adam."""
    network = new_network(options, device)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    rng = np.random.default_rng(0)

    def step() -> int:
        targets = rng.choice(len(spots), BATCH_SIZE, replace=False)
        batch = collate(targets, spots.neighbors, spots.images, spots.expression).to(device)
        losses = network.losses(released_forward(network, batch), batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        return len(batch)

    return step


class FineTuned:
    """Steps of nh2st over batches of neighbouring spots, the patches on the device where it is a GPU."""

    def __init__(self, options: argparse.Namespace, spots: MadeUpSpots, device: torch.device) -> None:
        self.network = new_network(options, device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=5e-4, fused=True)
        self.precision, self.device, self.spots = options.precision, device, spots
        self.images = torch.from_numpy(spots.images).to(device)
        self.batches = endless_batches(spots, options.batch_size)
        self.n_spots = self.n_encodings = 0

    def step(self) -> int:
        targets = next(self.batches)
        batch = collate(targets, self.spots.neighbors, self.images, self.spots.expression, closed=True)
        training_step(self.network, batch.to(self.device), self.optimizer, precision=self.precision)
        self.n_spots += len(batch)
        self.n_encodings += len(batch.images)
        return len(batch)

    @property
    def encodings_per_spot(self) -> float:
        return self.n_encodings / self.n_spots


def endless_batches(spots: MadeUpSpots, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of one epoch after another."""
    for epoch in itertools.count():
        yield from spatial_batches(spots.coordinates, spots.section, batch_size, seed=(0, epoch))


def bare_encoder(options: argparse.Namespace, device: torch.device) -> Callable[[], int]:
    """Patches through forward and backward pass of the encoder alone."""
    encoder = create_encoder(options.encoder, weights=None).to(device).train()
    images = torch.randint(0, 256, (options.batch_size, 3, options.patch_px, options.patch_px), dtype=torch.uint8)
    images = images.to(device)

    def run() -> int:
        for _ in range(options.steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16-mixed"):
                loss = encoder(images).float().square().mean()
            loss.backward()
        return options.steps * len(images)

    return run


class Frozen:
    """Steps on the cached feature maps of a frozen encoder; what the maps hold does not matter for the speed."""

    def __init__(self, options: argparse.Namespace, spots: MadeUpSpots, device: torch.device) -> None:
        self.network = new_network(options, device)
        self.network.encoder.fine_tune("none")
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=5e-4, fused=True)
        self.precision, self.device, self.spots = options.precision, device, spots
        self.maps = torch.rand(len(spots), *self.network.map_shape).half().to(device)
        self.batches = endless_batches(spots, options.frozen_batch_size)

    def step(self) -> int:
        batch = collate(next(self.batches), self.spots.neighbors, self.maps, self.spots.expression).to(self.device)
        training_step(self.network, batch, self.optimizer, precision=self.precision)
        return len(batch)


def report(rates: dict[str, float], encodings_per_spot: float) -> None:
    """Print spots per second and their ratios."""
    encodings = {RELEASED: ENCODINGS_PER_SPOT, FINE_TUNED: encodings_per_spot, FROZEN: 0.0, BARE: 1.0}
    rows = [
        [
            name,
            f"{rate:.1f}",
            "" if name == BARE else f"{rate / rates[RELEASED]:.1f}",
            f"{encodings[name]:.2f}",
            f"{rate * encodings[name] / rates[BARE]:.2f}",
        ]
        for name, rate in rates.items()
    ]
    header = ["training", "spots/s", "x released way", "encodings a spot", "encodings/s, of the bare encoder's"]
    print_table("One training step after another", header, rows)


def growth(options: argparse.Namespace, device: torch.device) -> None:
    """Print the cost of a spot as the data grow."""
    rows = []
    for factor in GROWTH:
        spots = made_up_spots(options.spots * factor, options.patch_px, options.genes)
        fine_tuned, frozen = FineTuned(options, spots, device), Frozen(options, spots, device)
        runs = {FINE_TUNED: fine_tuned.step, FROZEN: frozen.step}
        rates = side_by_side(runs, device, options.repeats)
        rows.append([f"x{factor}", str(len(spots)), *(f"{1000 / rates[name]:.2f}" for name in runs)])
    print_table("Milliseconds a spot as the spots grow", ["", "spots", FINE_TUNED, FROZEN], rows)


if __name__ == "__main__":
    main()

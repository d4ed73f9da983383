"""Accuracy for the same wall time: the released way of computing and nh2st's, on a section that neither has seen.

Needs nh2st. The last section is held out and only looked at: nothing is chosen by it. Both start from the same weights.
The released way trains as published (Adam at 5e-4, batches of 8 scattered spots, every target encoded with its nine
neighbours); nh2st with its own recipe (AdamW, one cycle, batches of neighbouring spots), which knows how long it has.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from _common import describe_machine, print_table
from _released import BATCH_SIZE, released_forward

import nh2st as nh
from nh2st._estimators import Patches, TrainingSpots, joined_neighbors, section_numbers
from nh2st._expression import Target, choose_genes, read_counts, target_values
from nh2st._metrics import mean_over_genes, pearson
from nh2st._patches import stack_patches
from nh2st._sections import find_sections, patch_windows
from nh2st._space import neighborhood
from nh2st._torch import channel_first
from nh2st.nn import NH2ST, NetworkConfig, collate, random_dihedral, spatial_batches, training_step


def main() -> None:
    """Measure and print."""
    options = parse_options()
    nh.settings.verbosity = "error"
    print(f"{describe_machine(torch.device('cpu'))}\n{options}")
    spots = load(options)
    test = spots.section == spots.section.max()
    rows = []
    for seed in range(options.seeds):
        for name, train, seconds in (
            ("released way", train_released, options.seconds),
            ("nh2st", train_nh2st, options.seconds),
            ("released way, longer", train_released, options.seconds * options.longer),
        ):
            torch.manual_seed(seed)
            network = new_network(options, spots, ~test)
            n_seen, spent = train(network, spots, ~test, seconds, seed)
            score = held_out_pearson(network, spots, test)
            rows.append([name, str(seed), f"{spent:.0f}", f"{n_seen / (~test).sum():.1f}", f"{score:.3f}"])
            print(rows[-1], flush=True)
    print_table("Held-out section", ["", "seed", "seconds", "epochs", "mean PCC per gene"], rows)


def parse_options() -> argparse.Namespace:
    """Settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", choices=["synthetic", "her2st"], default="synthetic")
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--patch-px", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--longer", type=float, default=4, help="times as long that the released way may go on")
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def load(options: argparse.Namespace) -> TrainingSpots:
    """Patches, targets and neighbours of the sections."""
    her2st = options.data == "her2st"
    sdata = nh.datasets.her2st(["B4", "C2", "C3", "C4"]) if her2st else nh.datasets.synthetic(5)
    sections = find_sections(sdata)
    counts = [read_counts(section, None) for section in sections]
    genes = choose_genes(counts[:-1], 250 if her2st else 60)
    expression = np.concatenate([target_values(part, genes, Target.named("default")) for part in counts])
    windows = [patch_windows(section, patch_um=112, patch_px=options.patch_px) for section in sections]
    section = section_numbers([len(part) for part in windows])
    return TrainingSpots(
        images=Patches(stack_patches([section.image for section in sections], windows)),
        expression=expression,
        labels=expression,
        neighbors=joined_neighbors([neighborhood(section.grid) for section in sections]),
        coordinates=np.concatenate([section.xy for section in sections]),
        section=section,
        group=section,
        overlap=np.zeros(len(section)),
    )


def new_network(options: argparse.Namespace, spots: TrainingSpots, used: np.ndarray) -> NH2ST:
    """Make the network of the publication, which starts from the mean of the training spots."""
    network = NH2ST(NetworkConfig(spots.expression.shape[1], encoder=options.encoder, patch_px=options.patch_px))
    network.set_output_mean(spots.expression[used].mean(axis=0))
    return network.train()


def train_released(
    network: NH2ST, spots: TrainingSpots, used: np.ndarray, seconds: float, seed: int
) -> tuple[int, float]:
    """Train in the released way; how many spots were seen, in how many seconds."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    rng, neighbors = np.random.default_rng(seed), spots.neighbors_within(used)
    generator = torch.Generator().manual_seed(seed)

    def step(targets: np.ndarray) -> None:
        batch = collate(targets, neighbors, spots.images.values, spots.expression)
        batch.images = random_dihedral(channel_first(batch.images), generator)
        losses = network.losses(released_forward(network, batch), batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()

    def epochs() -> Iterator[np.ndarray]:
        while True:
            order = rng.permutation(np.flatnonzero(used))
            yield from np.array_split(order, max(1, len(order) // BATCH_SIZE))

    return until(step, epochs(), seconds)


def train_nh2st(network: NH2ST, spots: TrainingSpots, used: np.ndarray, seconds: float, seed: int) -> tuple[int, float]:
    """Train as nh2st does, over as many epochs as will fit."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.05, fused=True)
    members, neighbors = np.flatnonzero(used), spots.neighbors_within(used)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    progress = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda _: one_cycle(min(1.0, (time.perf_counter() - start) / seconds))
    )

    def step(targets: np.ndarray) -> None:
        batch = collate(targets, neighbors, spots.images.values, spots.expression, closed=True)
        training_step(network, batch, optimizer, generator=generator)
        progress.step()

    def epochs() -> Iterator[np.ndarray]:
        for epoch in range(10**6):
            for batch in spatial_batches(spots.coordinates[members], spots.section[members], 16, seed=(seed, epoch)):
                yield members[batch]

    return until(step, epochs(), seconds)


def one_cycle(part: float) -> float:
    """Learning rate of the one-cycle schedule at a part of the time, as a share of the highest."""
    warm_up = 0.15
    return part / warm_up if part < warm_up else (1 + np.cos(np.pi * (part - warm_up) / (1 - warm_up))) / 2


def until(step: Callable[[np.ndarray], None], batches: Iterator[np.ndarray], seconds: float) -> tuple[int, float]:
    """Take steps until the time is up."""
    started, n_seen = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        targets = next(batches)
        step(targets)
        n_seen += len(targets)
    return n_seen, spent


def held_out_pearson(network: NH2ST, spots: TrainingSpots, test: np.ndarray) -> float:
    """Mean over genes of the correlation on the held-out section."""
    parts = np.array_split(spots.images.values[test], 8)
    predicted = np.concatenate([network.predict(torch.from_numpy(part)).numpy() for part in parts])
    return mean_over_genes(pearson(spots.expression[test], predicted))


if __name__ == "__main__":
    main()

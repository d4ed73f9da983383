"""The command-line program."""

from __future__ import annotations

from pathlib import Path

import click

_EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nh2st")
def main() -> None:
    """Predict spatial gene expression from H&E histology with NH2ST."""


@main.command()
@click.option(
    "--data",
    type=_EXISTING_FOLDER,
    help="Folder of the her2st data: train on its sections B4, C2, C3 and predict C4. This takes some ten minutes.",
)
@click.option("--output", type=_FOLDER, default=Path("nh2st-demo"), show_default=True, help="Folder for the results.")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs at most.  [default: 10]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data and of the training.")
def demo(data: Path | None, output: Path, epochs: int | None, device: str, seed: int) -> None:
    """Train on some sections, predict another, measure, and draw.

    Writes the model, the metrics, figures and the SpatialData into the output folder; what is there of an earlier demo
    is replaced.
    """
    from nh2st._demo import run

    try:
        run(data=data, output=output, epochs=epochs, device=device, seed=seed)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise click.ClickException(str(message)) from error

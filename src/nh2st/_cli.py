"""The command-line program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from nh2st._keys import DEMO_EPOCHS, MAX_EPOCHS

_EXISTING = click.Path(exists=True, path_type=Path)
_EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


class _Scale(click.ParamType):
    """Micrometres per pixel, or `native`."""

    name = "FLOAT|native"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Give the number, or `native`."""
        if value == "native":
            return value
        return click.FloatRange(min=0, min_open=True)(value, param, ctx)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors that tell the user what to do, as one message without a traceback."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise click.ClickException(str(message)) from error


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
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help=f"Epochs at most.  [default: {DEMO_EPOCHS}; {MAX_EPOCHS} on real sections]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the data and of the training.")
def demo(data: Path | None, output: Path, epochs: int | None, device: str, seed: int) -> None:
    """Train on some sections, predict another, measure, and draw.

    Writes the model, the metrics, figures and the SpatialData into the output folder; what is there of an earlier demo
    is replaced.
    """
    with _plain_errors():
        from nh2st._commands._demo import run

        run(data=data, output=output, epochs=epochs, device=device, seed=seed)


@main.command()
@click.argument("slide", type=_EXISTING)
@click.argument("model")
@click.option("--out", type=_FOLDER, required=True, help="SpatialData zarr store to write.")
@click.option("--image-key", help="Image of the store to predict on, where there are several.")
@click.option("--mpp", type=_Scale(), help="Micrometres per pixel, or native.  [default: as the slide's metadata say]")
@click.option(
    "--tile-um",
    type=click.FloatRange(min=0, min_open=True),
    help="Distance of the tiles in micrometres.  [default: that of the spots in training]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "32", "bf16", "int8"]),
    default="auto",
    show_default=True,
    help="Numbers that encoders compute in; int8 is for CPUs, faster and less exact.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Patches per step.")
@click.option("--image/--no-image", default=True, help="Whether the image is copied into the store.  [default: image]")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
def predict(
    slide: Path,
    model: str,
    out: Path,
    image_key: str | None,
    mpp: float | str | None,
    tile_um: float | None,
    device: str,
    precision: str,
    batch_size: int,
    image: bool,
    overwrite: bool,
) -> None:
    """Predict the genes of MODEL on SLIDE.

    SLIDE is a SpatialData zarr store or an image file: OME-TIFF, SVS or other TIFF, PNG, JPEG. MODEL is the file of a
    saved model, or the name of a published one. Where SLIDE has no spots, tiles are laid on its tissue. The slide is
    never changed: image and predictions are written to a store of their own, once all is done.
    """
    with _plain_errors():
        from nh2st._commands._predict_slide import run

        run(
            slide,
            model,
            out,
            image_key=image_key,
            mpp=mpp,
            tile_um=tile_um,
            device=device,
            precision=precision,
            batch_size=batch_size,
            with_image=image,
            overwrite=overwrite,
        )

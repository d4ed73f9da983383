"""Enter model files of this folder into the registry of pretrained models that comes with the package.

What a file says itself (checksum, size, panel, encoder, target, patches, sections) is always taken from it; the rest is
given once, and kept when the file is replaced:

    python weights/register.py weights/NAME.safetensors --organism "Homo sapiens" --tissue "breast cancer" \
        --assay "Spatial Transcriptomics" --licence BSD-3-Clause --pearson 0.2 --ridge-pearson 0.18 \
        --validation "4 folds, each one section"
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import click

from nh2st.models import load
from nh2st.models._registry import RegisteredModel, format_registry, parse_registry

REGISTRY = Path(__file__).parents[1] / "src" / "nh2st" / "models" / "registry.json"
MOST_BYTES = 30_000_000


def facts(file: Path) -> dict[str, Any]:
    """What a model file says itself, as fields of the registry.

    Raises
    ------
    ValueError
        If it is no file to publish: not saved with ``inference_only=True``, or too large for the repository.
    """
    # As a path, so that it is never taken for a name of the registry.
    model = load(file)
    content = file.read_bytes()
    if not model.inference_only or len(content) > MOST_BYTES:
        msg = (
            f"{file} has {len(content):,} bytes{'' if model.inference_only else ' and holds the parts for training'}; "
            f"publish what `model.save(path, inference_only=True)` writes, of at most {MOST_BYTES:,} bytes."
        )
        raise ValueError(msg)
    return {
        "name": file.stem,
        "sections": [str(section) for section in model.provenance["sections"]],
        "n_genes": len(model.genes),
        "encoder": model.config.encoder,
        "target": model.target.kind,
        "patch_um": model.patch_um,
        "patch_px": model.patch_px,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def register(file: Path, registry: Path, **said: Any) -> RegisteredModel:
    """Add a model to a registry file, or bring its entry up to date.

    Raises
    ------
    ValueError
        If the file is not to be published, or something about it was never said.
    """
    models = parse_registry(registry.read_text(encoding="utf-8"))
    known = facts(file)
    if earlier := models.get(known["name"]):
        said = {name: getattr(earlier, name) if value is None else value for name, value in said.items()}
    if missing := [f"--{name.replace('_', '-')}" for name, value in said.items() if value is None]:
        msg = f"{known['name']} is new to the registry: give {', '.join(missing)}."
        raise ValueError(msg)
    models[known["name"]] = RegisteredModel(**known, **said)
    temporary = registry.with_suffix(".tmp")
    temporary.write_text(format_registry(models), encoding="utf-8")
    os.replace(temporary, registry)
    return models[known["name"]]


@click.command(help=__doc__)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--organism")
@click.option("--tissue")
@click.option("--assay")
@click.option("--pearson", type=float, help="Cross-validated mean correlation over genes, raw truth.")
@click.option("--ridge-pearson", type=float, help="That of the ridge baseline on the same folds.")
@click.option("--validation", help="How both were cross-validated.")
@click.option("--licence", help="SPDX identifier.")
def main(file: Path, **said: Any) -> None:
    """Run the command."""
    try:
        click.echo(register(file, REGISTRY, **said))
    except ValueError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# new_x and new_y of three spots; a fourth has no counts
SPOTS = [(2, 3, 2.1, 2.9), (3, 3, 2.95, 3.02), (2, 4, 2.0, 4.1), (9, 9, 9.0, 9.0)]
PX_PER_UNIT = np.array([40.0, 50.0])


def her2st_texts() -> dict[str, str]:
    rows = [
        f"{x}\t{y}\t{new_x}\t{new_y}\t{new_x * PX_PER_UNIT[0] + 7}\t{new_y * PX_PER_UNIT[1] - 5}\t1"
        for x, y, new_x, new_y in SPOTS
    ]
    spots = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n" + "\n".join(rows) + "\n"
    # another order than the spots', and a spot without a position
    counts = "\tERBB2\tACTB\n2x4\t5\t6\n7x7\t100\t100\n3x3\t3\t4\n2x3\t1\t2\n"
    return {"counts": counts, "spots": spots}


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_image(path: Path, width: int = 500, height: int = 480) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(path)
    return path


@pytest.fixture
def her2st_flat(tmp_path: Path) -> Path:
    """A folder as our own layout has it, with the sections Q1 and Q2."""
    texts = her2st_texts()
    for name in ("Q1", "Q2"):
        counts = texts["counts"].replace("ACTB", "FASN") if name == "Q2" else texts["counts"]
        write(tmp_path / f"her2st/counts/{name}.tsv.gz", counts)
        write(tmp_path / f"her2st/spots/{name}_selection.tsv", texts["spots"])
        write_image(tmp_path / f"her2st/images/{name}.jpg")
    return tmp_path


@pytest.fixture
def her2st_repository(tmp_path: Path) -> Path:
    """A folder as the authors' repository has it, with section Q1."""
    texts = her2st_texts()
    root = tmp_path / "clone"
    write(root / "data/ST-cnts/Q1.tsv.gz", texts["counts"])
    write(root / "data/ST-spotfiles/Q1_selection.tsv", texts["spots"])
    write_image(root / "data/ST-imgs/Q/Q1/HE_BT_1.jpg")
    return root


@pytest.fixture
def bulb_repository(tmp_path: Path) -> Path:
    """A folder as STUtility's repository has it, with section MOB1 whose last spot is off the tissue."""
    texts = her2st_texts()
    root = tmp_path / "STUtility"
    folder = root / "inst/extdata/counts"
    lines = texts["spots"].splitlines()
    lines[3] = lines[3][:-1] + "0"
    write(folder / "MOB1.tsv", texts["counts"])
    write(folder / "alignment_table_MOB1.tsv", "\n".join(lines) + "\n")
    write_image(folder / "MOB1.jpg")
    return root

"""Public sections measured with Spatial Transcriptomics: a jpg, a table of counts and a table of spots each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nh2st._keys import DONOR
from nh2st._settings import logger, progress
from nh2st.datasets._assemble import SpotSection, to_spatialdata
from nh2st.datasets._section_files import FileLayout, section_files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from spatialdata import SpatialData

SPOT_RADIUS_UM = 50.0

HER2ST = FileLayout(
    dataset="her2st",
    patterns={
        "counts": ("ST-cnts/{section}.tsv*", "counts/{section}.tsv*"),
        "image": ("ST-imgs/{block}/{section}/*.jpg", "images/{section}.jpg"),
        "spots": ("ST-spotfiles/{section}_selection.tsv", "spots/{section}_selection.tsv"),
    },
    folders=("data", "her2st", "her2st/data"),
)
HER2ST_PITCH_UM = 200.0

MOB = FileLayout(
    dataset="mouse_olfactory_bulb",
    patterns={
        "counts": ("{section}.tsv*",),
        "image": ("{section}.jpg",),
        "spots": ("alignment_table_{section}.tsv",),
    },
    folders=("inst/extdata/counts", "mob", "mouse_olfactory_bulb"),
)
MOB_PITCH_UM = 100.0


def her2st(sections: str | Iterable[str] = ("B4", "C2", "C3"), *, path: str | Path | None = None) -> SpatialData:
    """HER2-positive breast cancer measured with Spatial Transcriptomics.

    Files are read from `path`, else from the folder that the environment variable ``NH2ST_DATA_DIR`` names, else they
    are downloaded (about 5 MB a section) into ``nh2st.settings.cache_dir`` and checked. Each section takes about 0.4 GB
    of memory, as its image is kept decoded.

    Parameters
    ----------
    sections
        Names such as ``"B4"``: the letter is the donor, the number the section.
    path
        Folder with a copy of the data: the original repository (``data/ST-cnts``, ``data/ST-imgs``,
        ``data/ST-spotfiles``), or folders ``counts``, ``images`` and ``spots`` with files named after the section,
        there or under ``her2st``.

    Returns
    -------
    For each section NAME a multiscale image ``NAME_image`` and circles ``NAME`` (100 um wide) in the coordinate system
    NAME, and one ``table`` for all: raw counts of the union of the sections' genes (0 where a section's file lacks a
    gene), ``obs["donor"]``, ``obs["section"]``, ``obs["organism"]``, ``obs["assay"]``, the position on the array in
    ``obs["array_row"]``, ``obs["array_col"]`` and ``obs["spot"]``, pixel centres in ``obsm["spatial"]``. Micrometres
    per pixel are in ``attrs["nh2st"]["mpp"]``, from the array's pitch of 200 um. Spots that have only counts or only a
    position are left out, and the log says how many.

    Raises
    ------
    FileNotFoundError
        A file is missing from the local folder.
    ValueError
        A section is not available, or a download does not have the expected checksum.
    ConnectionError
        A file could not be downloaded.

    References
    ----------
    Andersson et al., Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
    interactions, Nature Communications 12, 6012 (2021), https://doi.org/10.1038/s41467-021-26271-2.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.her2st(["B4", "C2"])  # doctest: +SKIP
    >>> sdata["table"].obs["donor"].unique().tolist()  # doctest: +SKIP
    ['B', 'C']
    """
    return _read(HER2ST, sections, path, pitch_um=HER2ST_PITCH_UM, organism="Homo sapiens", has_donors=True)


def mouse_olfactory_bulb(
    sections: str | Iterable[str] = ("MOB1", "MOB2", "MOB3"), *, path: str | Path | None = None
) -> SpatialData:
    """Sections of the mouse olfactory bulb, as distributed with STUtility.

    Files come from the same places as those of :func:`her2st`. The jpgs are coarse (about 4.4 um per pixel), the spots
    lie on a checkerboard, and there are 1,000 genes, named by their Ensembl ids.

    Parameters
    ----------
    sections
        ``"MOB1"`` to ``"MOB4"``.
    path
        Folder with a copy of the data: the original repository (``inst/extdata/counts``), or the files themselves,
        there or under ``mob``.

    Returns
    -------
    Laid out like :func:`her2st`, spots under tissue only. No donors are known, so there is no ``obs["donor"]``:
    functions that group by donor take each section for a group of its own. Micrometres per pixel follow from one array
    unit being 100 um; the jpgs are stretched (21.6 pixels per unit in x, 24.1 in y), and the value is the geometric
    mean. Spots are drawn 100 um wide: their true size is not in the files.

    Raises
    ------
    FileNotFoundError, ValueError, ConnectionError
        As in :func:`her2st`.

    References
    ----------
    Bergenstråhle et al., Seamless integration of image and molecular analysis for spatial transcriptomics workflows,
    BMC Genomics 21, 482 (2020), https://doi.org/10.1186/s12864-020-06832-3.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.mouse_olfactory_bulb("MOB1")  # doctest: +SKIP
    >>> sdata["table"].n_vars  # doctest: +SKIP
    1000
    """
    return _read(MOB, sections, path, pitch_um=MOB_PITCH_UM, organism="Mus musculus", has_donors=False)


def _read(
    layout: FileLayout,
    sections: str | Iterable[str],
    path: str | Path | None,
    *,
    pitch_um: float,
    organism: str,
    has_donors: bool,
) -> SpatialData:
    files = section_files(layout, sections, path)
    names = progress(files, f"reading {layout.dataset}")
    return to_spatialdata(
        [_section(name, files[name], pitch_um, _annotation(name, organism, has_donors)) for name in names]
    )


def _annotation(name: str, organism: str, has_donors: bool) -> dict[str, str]:
    """What all spots of a section have in common, under the keys of the CELLxGENE schema."""
    donor = {DONOR: name[0]} if has_donors else {}
    return {**donor, "organism": organism, "assay": "Spatial Transcriptomics"}


def _section(name: str, files: dict[str, Path], pitch_um: float, annotation: dict[str, str]) -> SpotSection:
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_matrix

    counts = pd.read_csv(files["counts"], sep="\t", index_col=0)
    positions = pd.read_csv(files["spots"], sep="\t")
    positions = positions[positions["selected"] == 1]
    array = positions[["x", "y"]].round().astype(np.int64)
    positions.index = pd.Index(array["x"].astype(str) + "x" + array["y"].astype(str))
    shared = _shared_spots(name, counts.index, positions.index)
    counts, positions = counts.loc[shared], positions.loc[shared]
    xy = positions[["pixel_x", "pixel_y"]].to_numpy(np.float64)
    return SpotSection(
        name=name,
        image=_decode(files["image"]),
        mpp=_mpp(positions[["new_x", "new_y"]].to_numpy(np.float64), xy, pitch_um),
        xy=xy,
        array=positions[["x", "y"]].round().to_numpy(np.int64),
        radius_um=SPOT_RADIUS_UM,
        counts=csr_matrix(counts.to_numpy(np.float32)),
        genes=counts.columns,
        obs=pd.DataFrame(annotation, index=shared),
    )


def _shared_spots(name: str, counted: pd.Index, positioned: pd.Index) -> pd.Index:
    # an id that occurs twice does not say which row is meant
    counted, positioned = counted[~counted.duplicated(keep=False)], positioned[~positioned.duplicated(keep=False)]
    shared = positioned[positioned.isin(counted)]
    logger.info(
        "%s: %d spots; left out %d with counts but no position under tissue and %d with a position but no counts",
        name,
        len(shared),
        len(counted) - len(shared),
        len(positioned) - len(shared),
    )
    return shared


def _mpp(array: np.ndarray, pixels: np.ndarray, pitch_um: float) -> float:
    """Micrometres per pixel, from the least-squares affine map of array to pixel coordinates."""
    import numpy as np

    design = np.column_stack([array, np.ones(len(array))])
    linear = np.linalg.lstsq(design, pixels)[0][:2]
    return float(pitch_um / np.sqrt(abs(np.linalg.det(linear))))


def _decode(path: Path) -> np.ndarray:
    import numpy as np
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit

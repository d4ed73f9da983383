"""Every key that nh2st reads or writes in AnnData and SpatialData, and the numbers that are conventions."""

from __future__ import annotations

from typing import Final

NAMESPACE: Final = "nh2st"
"""Key in ``uns`` and in ``SpatialData.attrs`` under which everything of the package is kept."""

PREDICTION: Final = "nh2st"
CROSS_VALIDATION: Final = "nh2st_cv"
EMBEDDING: Final = "nh2st_embedding"
TARGET_LAYER: Final = "nh2st_target"
SMOOTH_SUFFIX: Final = "smooth"
RIDGE_SUFFIX: Final = "ridge"
STD_SUFFIX: Final = "std"
TRAINING_MEAN_SUFFIX: Final = "training_mean"

MODEL: Final = "model"
"""Name of the network in scores, where baselines stand beside it."""
RAW: Final = "raw"
SMOOTHED: Final = "smoothed"
"""What predictions are compared with: every spot as measured, or averaged with its neighbours."""

GENE_FLAG: Final = "nh2st_gene"
PREDICTED_SUFFIX: Final = "predicted"

MPP: Final = "mpp"
TRAINING: Final = "training"
UNDEFINED_SCORE: Final = -1.0
"""Validation score of predictions that are constant, whose correlation is undefined: worse than any other."""

TILES_TABLE: Final = "nh2st"
TILES_SHAPES: Final = "nh2st_tiles"
TISSUE_SHAPES: Final = "nh2st_tissue"
TILES: Final = "tiles"
TISSUE_FRACTION: Final = "tissue_fraction"
"""Tiles of an image without spots: their table and shapes, the outline of the tissue, and what is recorded of them."""

COUNTS_LAYER: Final = "counts"
IN_TISSUE: Final = "in_tissue"
ARRAY_ROW: Final = "array_row"
ARRAY_COL: Final = "array_col"
DONOR: Final = "donor"
SPATIAL: Final = "spatial"
SPATIAL_KEY: Final = "spatial"
CONNECTIVITIES_SUFFIX: Final = "connectivities"
DISTANCES_SUFFIX: Final = "distances"
NEIGHBORS_SUFFIX: Final = "neighbors"

MICROMETRE_SYSTEMS: Final = frozenset(
    {"um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"}
)
"""Names of coordinate systems whose unit is taken to be the micrometre."""

ENCODER: Final = "tf_efficientnet_lite0"
"""The default image encoder, whose weights need no download."""
VARIANT: Final = "context"
"""The default network: it was better than the published one in leak-free comparison on real sections."""
MAX_EPOCHS: Final = 30
DEMO_EPOCHS: Final = 18
"""Epochs of the default network, and of the demo on made-up sections."""
PATCH_UM: Final = 112.0
PATCH_PX: Final = 224
VISIUM_PITCH_UM: Final = 100.0
TARGET_SUM: Final = 1e4
N_GENES: Final = 250
MAX_NEIGHBORS: Final = 8
MAX_NEIGHBORS_HEXAGONAL: Final = 6

DATA_DIR_VARIABLE: Final = "NH2ST_DATA_DIR"
CACHE_DIR_VARIABLE: Final = "NH2ST_CACHE_DIR"

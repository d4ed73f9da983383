"""The NH2ST network on plain arrays, with torch and timm alone.

The network of "Spatially Gene Expression Prediction using Dual-Scale Contrastive Learning" (NH2ST, MICCAI 2025,
arXiv:2506.23827), its encoder, its losses, and the batches that it is trained on.
"""

from __future__ import annotations

from nh2st.nn._augmentation import random_dihedral, random_stain
from nh2st.nn._batch import NeighborBatch, collate
from nh2st.nn._build import Network, create_network
from nh2st.nn._config import NetworkConfig
from nh2st.nn._context_network import ContextNetwork, Prediction
from nh2st.nn._contrastive import contrastive_loss, symmetric_contrastive_loss
from nh2st.nn._create_encoder import create_encoder
from nh2st.nn._encoder import Encoder
from nh2st.nn._likelihood import count_loss
from nh2st.nn._paper_network import NH2ST, Output
from nh2st.nn._reduction import Reduction
from nh2st.nn._sampling import spatial_batches
from nh2st.nn._step import training_step

__all__ = [
    "NH2ST",
    "ContextNetwork",
    "Encoder",
    "NeighborBatch",
    "Network",
    "NetworkConfig",
    "Output",
    "Prediction",
    "Reduction",
    "collate",
    "contrastive_loss",
    "count_loss",
    "create_encoder",
    "create_network",
    "random_dihedral",
    "random_stain",
    "spatial_batches",
    "symmetric_contrastive_loss",
    "training_step",
]

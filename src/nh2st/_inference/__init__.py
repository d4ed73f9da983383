"""A network applied to every patch of sections: in this process, or on a cluster."""

from __future__ import annotations

from nh2st._inference._encode import checksum, encode_sections, features_of, maps_of
from nh2st._inference._job import Job
from nh2st._inference._run_job import check_place, run

__all__ = ["Job", "check_place", "checksum", "encode_sections", "features_of", "maps_of", "run"]

"""Gaussian splat files of other tools: PLY (standard and compressed), .splat and .spz, read and
written.
"""

from fsm.renderers.splat_files.io import SUFFIXES, read_splats, read_table, write_table
from fsm.renderers.splat_files.scene import open_splats
from fsm.renderers.splat_files.table import SplatTable, up_rotation

__all__ = [
    "SUFFIXES",
    "SplatTable",
    "open_splats",
    "read_splats",
    "read_table",
    "up_rotation",
    "write_table",
]

"""Gaussian splat files of other tools: PLY (standard and compressed), .splat, .spz, .sog and
.ksplat, read and written.
"""

from fsm.renderers.splat_files.io import (
    SUFFIXES,
    format_of,
    read_splats,
    read_table,
    write_table,
)
from fsm.renderers.splat_files.scene import open_splats
from fsm.renderers.splat_files.table import SplatTable, up_rotation

__all__ = [
    "SUFFIXES",
    "SplatTable",
    "format_of",
    "open_splats",
    "read_splats",
    "read_table",
    "up_rotation",
    "write_table",
]

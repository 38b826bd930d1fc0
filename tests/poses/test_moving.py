"""Flow of a plane seen by two known cameras, and of a patch that moves across its epipolar line."""

from pathlib import Path

import numpy as np

from fsm.poses.moving import grown, leaves_line
from fsm.poses.solve import Solved

H, W, F = 48, 64, 60.0


def two_cameras() -> Solved:
    w2c = np.tile(np.eye(4), (2, 1, 1))
    w2c[1, 0, 3] = -0.3
    lens = (F, W / 2, H / 2, 0.0)
    names = ("a", "b")
    return Solved(Path(), names, w2c, (lens, lens), (H, W), 0.5, 9, ((F, None),), "global", (2,))


def test_a_plane_stays_on_its_lines_and_a_patch_leaves_them():
    there = np.zeros((H, W, 2), np.float32)
    there[..., 0] = -F * 0.3 / 4.0  # the plane z = 4, as the second camera sees it
    back = -there
    off = leaves_line(two_cameras(), 0, 1, there, back)
    seen = np.isfinite(off)
    assert seen.mean() > 0.8
    assert np.nanmax(off) < 1e-4
    there[10:20, 30:40, 1] = 5.0
    back[:] = -there
    off = leaves_line(two_cameras(), 0, 1, there, np.zeros_like(there) - there)
    inner = off[10:14, 31:36]
    assert np.all(np.isnan(inner) | (inner > 2.0))


def test_flow_that_disagrees_says_nothing():
    there = np.zeros((H, W, 2), np.float32)
    assert np.isnan(leaves_line(two_cameras(), 0, 1, there, there + 3.0)).all()


def test_specks_vanish_and_areas_grow():
    moves = np.zeros((60, 60), bool)
    moves[5, 5] = True
    moves[30:40, 30:40] = True
    found = grown(moves)
    assert not found[5, 5]
    assert found[34, 25]
    assert not found[34, 15]

"""Lengths and the grid of a scene, against closed forms."""

import dataclasses
import math

import pytest
import torch

from fsm.renderers.film.camera_paths import look_at
from fsm.renderers.film.splines import rotations
from fsm.viewer.cameras import viewing_distance
from fsm.viewer.scale import CELLS, LOWERED, grid, length, trail_length
from fsm.views import Views
from tests.viewer.fakes import cameras

UP = (0.0, -1.0, 0.0)


def around(distance: float) -> Views:
    """Cameras to the left and right of -z that look at the origin from ``distance``."""
    angles = torch.linspace(-0.5, 0.5, 5, dtype=torch.float64)
    eyes = distance * torch.stack(
        [angles.sin(), torch.zeros(5, dtype=torch.float64), -angles.cos()], dim=-1
    )
    c2w = look_at(
        eyes, torch.zeros_like(eyes), torch.tensor([0.0, 1, 0], dtype=torch.float64).expand(5, 3)
    )
    return dataclasses.replace(cameras(5), c2w=c2w.float())


def test_the_trail_is_walked_in_the_order_of_time() -> None:
    views = cameras(5)
    assert trail_length(views) == pytest.approx(0.4)
    assert trail_length(views[[3, 0, 4, 2, 1]]) == pytest.approx(0.4)
    assert trail_length(views[0]) == 0


@pytest.mark.parametrize(
    ("distance", "metres"), [(0.25, 0.01), (0.5, 0.1), (4.0, 1.0), (29.0, 1.0), (31.0, 10.0)]
)
def test_squares_are_the_largest_power_of_ten_that_fits(distance: float, metres: float) -> None:
    drawn = grid(around(distance), UP, 1.0)
    assert drawn.metres == pytest.approx(metres)
    assert distance / drawn.cell >= CELLS > distance / drawn.cell / 10
    assert drawn.cells * drawn.cell >= 2 * distance - 1e-6
    assert drawn.cells % 2 == 0  # the middle is a corner of squares


def test_metres_per_unit_change_the_squares_and_nothing_else() -> None:
    views = around(4.0)
    one, other = grid(views, UP, 1.0), grid(views, UP, 0.1)
    assert (other.metres, other.cell) == (pytest.approx(0.1), pytest.approx(1.0))
    assert other == dataclasses.replace(
        one, metres=other.metres, cell=other.cell, cells=other.cells
    )


@pytest.mark.parametrize("up", [UP, (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.6, 0.0, 0.8)])
def test_the_grid_is_level_and_under_what_is_looked_at(up: tuple[float, float, float]) -> None:
    views = around(4.0)
    drawn = grid(views, up, 1.0)
    rotation = rotations(torch.tensor(drawn.wxyz, dtype=torch.float64))
    torch.testing.assert_close(rotation[:, 2], torch.tensor(up, dtype=torch.float64))
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    low = LOWERED * viewing_distance(views) * 0.5 * views.hw[0] / float(views.intrinsics[0, 1])
    assert drawn.position == pytest.approx([-low * x for x in up], abs=1e-5)


def test_the_grid_lies_to_the_right_of_the_cameras() -> None:
    drawn = grid(around(4.0), UP, 1.0)
    x = rotations(torch.tensor(drawn.wxyz, dtype=torch.float64))[:, 0]
    assert x.tolist() == pytest.approx([1, 0, 0], abs=1e-6)


def test_lengths_are_read_to_three_digits() -> None:
    assert [length(x) for x in (0.0, 0.001234, 0.0123, 1.0, 3.3749, 123.4, 999.9, 12345.0)] == [
        "0 m",
        "1.23 mm",
        "0.0123 m",
        "1 m",
        "3.37 m",
        "123 m",
        "1 km",
        "12.3 km",
    ]
    assert length(math.pi * 1e6) == "3,140 km"

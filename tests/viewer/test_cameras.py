"""Browser cameras and ``Views`` against closed forms and against viser's own rotations."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import viser.transforms
from hypothesis import given
from hypothesis import strategies as st

from fsm.errors import InputError
from fsm.renderers.film.camera_paths import look_at
from fsm.viewer.cameras import Camera, place, up_direction, viewing_distance
from fsm.viewer.modes import bordered
from fsm.views import Views
from tests.viewer.fakes import cameras

Q = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 0.01)


def handle(**other: object) -> SimpleNamespace:
    given = {"wxyz": np.array([1.0, 0, 0, 0]), "position": np.zeros(3), "fov": 1.0}
    return SimpleNamespace(**{**given, "image_width": 90, "image_height": 60, **other})


@given(Q)
def test_the_rotation_is_visers(q: tuple[float, ...]) -> None:
    camera = Camera.of_browser(handle(wxyz=np.array(q), position=np.array([1.0, 2, 3])))
    expected = viser.transforms.SO3(np.array(q) / np.linalg.norm(q)).as_matrix()
    np.testing.assert_allclose(camera.c2w[:3, :3].numpy(), expected, atol=1e-12)
    assert camera.c2w[:3, 3].tolist() == [1, 2, 3]


def test_the_edges_of_the_picture_are_half_the_field_of_view_away() -> None:
    request = Camera.of_browser(handle(fov=math.radians(90))).request(60, 1.5)
    assert request.hw == (60, 90)
    assert request.intrinsics[0].tolist() == pytest.approx([30, 30, 45, 30])
    assert request.time.tolist() == [1.5]
    assert request.rgb is None


@given(Q, st.floats(0.1, 2.5), st.sampled_from([(60, 90), (90, 60), (64, 64)]))
def test_to_views_and_back(q: tuple[float, ...], fov: float, hw: tuple[int, int]) -> None:
    browser = handle(
        wxyz=np.array(q),
        position=np.array([0.5, -1, 2]),
        fov=fov,
        image_width=hw[1],
        image_height=hw[0],
    )
    camera = Camera.of_browser(browser)
    back = Camera.of_view(camera.request(hw[0], 0.0))
    assert back.fov == pytest.approx(fov, rel=1e-5)
    assert back.aspect == pytest.approx(hw[1] / hw[0], rel=1e-5)
    assert back.position == pytest.approx(camera.position, rel=1e-6)
    assert abs(np.dot(back.wxyz, camera.wxyz)) == pytest.approx(1, abs=1e-6)


def test_oblong_pixels_keep_the_vertical_field_of_view_and_the_shape_of_the_frustum() -> None:
    view = Views(torch.eye(4)[None], torch.tensor([[50.0, 25, 50, 25]]), torch.zeros(1), (50, 100))
    camera = Camera.of_view(view)
    assert camera.fov == pytest.approx(math.radians(90))
    assert camera.aspect == pytest.approx(1.0)


@pytest.mark.parametrize(
    "broken", [{"fov": math.nan}, {"wxyz": np.zeros(4)}, {"position": np.array([0, math.inf, 0])}]
)
def test_what_is_no_camera_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(InputError, match="not a pose"):
        Camera.of_browser(handle(**broken))


def test_absurd_windows_and_fields_of_view_are_held() -> None:
    strip = Camera.of_browser(handle(image_width=10**9, image_height=1))
    assert strip.hw(128) == (128, 1024)
    assert Camera.of_browser(handle(image_height=0)).hw(100) == (100, 100)
    assert Camera.of_browser(handle(image_width=1, image_height=5000)).hw(96) == (96, 16)
    assert Camera.of_browser(handle(fov=7.0)).fov == pytest.approx(math.radians(170))


def test_up_is_against_image_y() -> None:
    assert up_direction(cameras()) == pytest.approx((0, -1, 0))
    opposed = cameras(2)
    opposed.c2w[1, :3, :2] *= -1
    assert up_direction(opposed) == pytest.approx((0, -1, 0))


def test_viewing_distance_is_to_what_the_cameras_look_at() -> None:
    position = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]])
    target = torch.tensor([0.0, 0, 4]).expand(3, 3)
    c2w = look_at(position, target, torch.tensor([0.0, 1, 0]).expand(3, 3))
    converging = Views(c2w, torch.ones(3, 4), torch.zeros(3), (8, 8))
    assert viewing_distance(converging) == pytest.approx(math.sqrt(17), rel=1e-5)
    assert viewing_distance(cameras()) == pytest.approx(1.0)  # parallel, 0.4 wide
    assert viewing_distance(cameras(1)) == 1.0


def test_placing_turns_the_browser_and_gives_it_something_to_orbit() -> None:
    browser = SimpleNamespace(position=None, wxyz=None, look_at=None, fov=None, up_direction=None)
    # +z to +x
    turned = Camera((math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0), (1.0, 2.0, 3.0), 0.7, 1.5)
    place(browser, turned, 5.0, (0.0, -1.0, 0.0))
    assert browser.up_direction.tolist() == [0, -1, 0]
    np.testing.assert_allclose(browser.look_at, [6, 2, 3], atol=1e-12)
    np.testing.assert_allclose(browser.wxyz, turned.wxyz)
    assert browser.fov == 0.7


@pytest.mark.parametrize("window", [0.5, 1.6, 3.0])
def test_a_window_around_a_picture_holds_it_and_no_more_than_it_must(window: float) -> None:
    clip = Camera((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.8, 1.2)
    around = clip.around(window)
    assert around.framed(1.2).fov == pytest.approx(clip.fov)
    high = math.tan(around.fov / 2) / math.tan(clip.fov / 2)
    wide = high * window / 1.2
    assert min(high, wide) == pytest.approx(1)


def test_borders_make_the_picture_as_wide_as_the_window() -> None:
    picture = np.full((20, 30, 3), 200, np.uint8)
    assert bordered(picture, 1.5) is not picture
    assert np.array_equal(bordered(picture, 1.5), picture)
    for aspect, shape in ((3.0, (20, 60, 3)), (0.5, (60, 30, 3))):
        whole = bordered(picture, aspect)
        assert whole.shape == shape
        assert (whole == 200).all(-1).sum() == 20 * 30
        assert (whole[0, 0] < 60).all()

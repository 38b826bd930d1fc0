"""Lens, limits, up, scale and the way back, in a running viewer."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.viewer import Viewer
from fsm.viewer.cameras import Camera
from fsm.viewer.limits import Limits
from fsm.viewer.modes import Mode, as_bytes
from fsm.viewer.stage import Job, Stage
from fsm.views import Rendering, SceneFrame, Views
from tests.viewer.fakes import FakeBrowser, FakeScene, browser, cameras, until

FRONT = Camera((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.8, 1.5)
LEVEL = 3 / 255  # JPEG
ALL = Limits()


class Steps(FakeScene):
    """White; the left half is at depth 1, the right at depth 3."""

    def render(self, views: Views) -> Rendering:
        depth = super().render(views).depth
        assert depth is not None
        depth = torch.ones_like(depth)
        depth[..., depth.shape[-1] // 2 :] = 3.0
        return Rendering(torch.ones(len(views), 3, *views.hw), depth=depth)


class Flat(FakeScene):
    def render(self, views: Views) -> Rendering:
        return Rendering(super().render(views).rgb)


def job(mode: Mode = "Colour", limits: Limits = ALL, depths: Limits = ALL) -> Job:
    return Job(FRONT, 0.0, 0, mode, 40, limits=limits, depths=depths)


def halves(picture: np.ndarray) -> tuple[float, float]:
    w = picture.shape[1] // 2
    return float(picture[:, :w].mean()) / 255, float(picture[:, w:].mean()) / 255


def test_pixels_outside_near_and_far_are_black() -> None:
    stage = Stage(Steps())
    assert halves(stage.render(job(), 40).picture) == (1, 1)
    assert halves(stage.render(job(limits=Limits(2.0)), 40).picture) == (0, 1)
    assert halves(stage.render(job(limits=Limits(far=2.0)), 40).picture) == (1, 0)
    assert halves(stage.render(job(limits=Limits(1.0, 3.0)), 40).picture) == (1, 1)
    with pytest.raises(InputError, match="no depth to limit"):
        Stage(Flat()).render(job(limits=Limits(2.0)), 40)


def test_without_limits_a_picture_is_what_the_scene_renders() -> None:
    scene = GaussianScene(wall(1.0, 0.2, 1.0), SceneFrame.identity(), cameras())
    rendered = as_bytes(scene.render(FRONT.request(40, 0.0)).rgb[0])
    assert np.array_equal(Stage(scene).render(job(), 40).picture, rendered)


def wall(z: float, colour: float, scale: float) -> Gaussians4D:
    """One broad opaque Gaussian ahead of the first camera, ``z`` of the clip's units away, in a
    space ``scale`` as large.
    """
    one = torch.ones(1)
    still = torch.tensor([[1.0, 0, 0, 0]])
    return Gaussians4D(
        means=torch.tensor([[0.0, 0.0, z * scale]]),
        times=0 * one,
        scales=torch.full((1, 3), 2.0 * z * scale) * torch.tensor([1, 1, 1e-3]),
        time_scales=1e6 * one,
        left=still,
        right=still,
        opacities=0.999 * one,
        sh=torch.full((1, 1, 3), (colour - 0.5) / 0.28209479),
    )


def test_gaussians_outside_near_and_far_uncover_those_behind() -> None:
    scale = 0.25  # the limits are in the clip's unit, the Gaussians are not
    near, far = wall(1.0, 0.2, scale), wall(3.0, 0.8, scale)
    both = Gaussians4D(
        *(torch.cat([getattr(near, name), getattr(far, name)]) for name in Gaussians4D.names())
    )
    frame = dataclasses.replace(SceneFrame.identity(), scale=torch.tensor(scale))
    scene = GaussianScene(both, frame, cameras())
    stage = Stage(scene)

    def middle(limits: Limits) -> float:
        return float(stage.render(job(limits=limits), 40).picture[20, 30].mean()) / 255

    assert middle(Limits()) == pytest.approx(0.2, abs=0.02)
    assert middle(Limits(2.0)) == pytest.approx(0.8, abs=0.02)
    assert middle(Limits(far=2.0)) == pytest.approx(0.2, abs=0.02)
    assert middle(Limits(2.0, 2.5)) == 0
    assert scene.projection == stage.scene.projection  # pyright: ignore[reportAttributeAccessIssue]
    assert scene.clipped(2.0, 5.0).moving is scene.moving


def test_the_colours_of_depth_run_between_the_ends_that_are_set() -> None:
    stage = Stage(Steps())
    found = stage.render(job("Depth"), 40).picture
    assert np.array_equal(stage.render(job("Depth", depths=Limits(1.0, 3.0)), 40).picture, found)
    wider = stage.render(job("Depth", depths=Limits(far=100.0)), 40).picture
    assert np.array_equal(wider[:, :30], found[:, :30])  # near is still red
    assert not np.array_equal(wider[:, 30:], found[:, 30:])
    with pytest.raises(InputError, match="would run from 5 to 3"):
        stage.render(job("Depth", depths=Limits(5.0)), 40)


def test_only_what_a_scene_renders_is_offered() -> None:
    assert Stage(Flat()).modes == ("Colour",)
    assert Stage(Steps()).modes == ("Colour", "Depth")
    assert Stage(FakeScene()).modes == ("Colour", "Depth", "Opacity")


@pytest.fixture
def one() -> Iterator[FakeBrowser]:
    with Viewer(Steps(), port=0) as viewer, browser(viewer.url) as connected:
        connected.look()
        until(lambda: connected.pictures and connected.find("Scale grid"))
        yield connected


def moved(one: FakeBrowser, kind: str) -> list[float]:
    """Where the last message of this kind puts the camera."""
    sent = [m["position"] for m in one.moves if m["type"] == kind]
    return list(sent[-1]) if sent else []


def value(one: FakeBrowser, label: str):
    control = one.find(label)
    assert control is not None
    return control["value"]


def squares(one: FakeBrowser) -> str | None:
    """What the grid is labelled with; it is taken away and added anew when it changes."""
    return one.nodes.get("/scale/length", {}).get("text")


def test_near_and_far_are_asked_for_and_said_to_be_none(one: FakeBrowser) -> None:
    until(lambda: halves(one.pictures[-1]) == (1, 1))
    one.use("Near, far", (2.0, 0.0))
    until(lambda: halves(one.pictures[-1]) == pytest.approx((0, 1), abs=LEVEL))
    one.use("Near, far", (2, 1))
    until(
        lambda: one.says(
            "**Not drawn:** Near, far: 2 to 1 is no range; choose near < far, or 0 for no limit."
        )
    )
    one.use("Near, far", (0, 2))
    until(lambda: halves(one.pictures[-1]) == pytest.approx((1, 0), abs=LEVEL))
    until(lambda: not one.says("Not drawn"))


def test_the_ends_of_the_colours_are_for_depth(one: FakeBrowser) -> None:
    assert until(lambda: one.find("Depth colours"))["visible"] is False
    one.use("Show", "Depth")
    until(lambda: one.find("Depth colours")["visible"])  # pyright: ignore[reportOptionalSubscript]
    until(lambda: one.says("Found: red at 1, blue at 3"))
    before = one.pictures[-1]
    one.use("Depth colours", (0.5, 50.0))
    until(lambda: abs(halves(one.pictures[-1])[1] - halves(before)[1]) > 0.05)
    one.use("Show", "Colour")
    until(lambda: not one.says("Found:") and not one.find("Depth colours")["visible"])  # pyright: ignore


def test_what_a_scene_cannot_do_is_not_shown() -> None:
    with Viewer(Flat(), port=0) as viewer, browser(viewer.url) as one:
        one.look()
        until(lambda: one.pictures and one.find("Up"))
        assert one.find("Near, far")["visible"] is False  # pyright: ignore[reportOptionalSubscript]
        assert list(one.find("Show")["options"]) == ["Colour"]  # pyright: ignore[reportOptionalSubscript]


def test_another_scene_is_measured_and_offered_anew() -> None:
    with Viewer(Steps(), port=0) as viewer, browser(viewer.url) as one:
        one.look()
        until(lambda: one.says("Trail of the cameras: 0.4 m"))
        one.use("Scale grid", True)
        until(lambda: "/scale/grid" in one.nodes)
        inputs = cameras()
        c2w = inputs.c2w.clone()
        c2w[:, :3, 3] *= 100
        c2w[:, :3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
        viewer.show(Flat(dataclasses.replace(inputs, c2w=c2w)))
        until(lambda: one.says("Trail of the cameras: 40 m"))
        until(lambda: squares(one) == "10 m")
        until(lambda: one.find("Near, far")["visible"] is False)  # pyright: ignore[reportOptionalSubscript]


def test_the_lens_is_the_sliders_and_the_slider_the_lenss(one: FakeBrowser) -> None:
    until(lambda: value(one, "View angle (°)") == pytest.approx(math.degrees(0.8), abs=0.05))
    one.use("View angle (°)", 60.0)
    until(
        lambda: any(
            m["type"] == "SetCameraFovMessage" and m["fov"] == pytest.approx(math.pi / 3)
            for m in one.moves
        )
    )
    one.use("View angle (°)", 70.0)
    one.look(fov=math.pi / 3)  # the browser says late where it was
    one.look(fov=math.radians(70))
    one.look(fov=1.0)  # and then something else
    until(lambda: value(one, "View angle (°)") == 57.3)


def test_up_is_what_was_chosen_and_stays_when_the_camera_goes_elsewhere(one: FakeBrowser) -> None:
    up = "SetCameraUpDirectionMessage"
    one.use("Up", "+z")
    until(lambda: moved(one, up) == pytest.approx([0, 0, 1]))
    one.use("Up", "-x")
    until(lambda: moved(one, up) == pytest.approx([-1, 0, 0]))
    one.use("Up", "From the cameras")
    until(lambda: moved(one, up) == pytest.approx([0, -1, 0]))
    tilt = math.radians(30)
    # rolled about its axis
    one.look(wxyz=(math.cos(tilt / 2), 0.0, 0.0, math.sin(tilt / 2)), x=0.2)
    until(lambda: one.pictures)
    one.use("Set up as in this view", True)
    until(lambda: moved(one, up) == pytest.approx([math.sin(tilt), -math.cos(tilt), 0], abs=1e-6))
    assert value(one, "Up") == "As it was set"
    one.moves.clear()
    one.use(
        "Look through the nearest", True
    )  # its own up is another: the camera turns about what is nearest to the chosen
    until(lambda: moved(one, "SetCameraPositionMessage") == pytest.approx([0, 0, 0], abs=1e-9))
    assert value(one, "Up") == "As it was set"
    one.use("Reset view", True)
    until(lambda: value(one, "Up") == "From the cameras")


def test_reset_puts_everything_back_that_changes_the_view(one: FakeBrowser) -> None:
    until(lambda: one.pictures[-1].shape == (32, 48, 3) and halves(one.pictures[-1]) == (1, 1))
    first = one.pictures[-1]
    one.use("Show", "Depth")
    one.use("Near, far", (0.5, 2.0))
    one.use("Depth colours", (0.5, 9.0))
    one.use("View angle (°)", 90.0)
    one.use("Up", "+x")
    until(lambda: moved(one, "SetCameraUpDirectionMessage") == pytest.approx([1, 0, 0]))
    one.moves.clear()
    one.use("Reset view", True)
    fov = Camera.of_view(cameras()).fov
    until(
        lambda: any(
            m["type"] == "SetCameraFovMessage" and m["fov"] == pytest.approx(fov) for m in one.moves
        )
    )
    until(lambda: moved(one, "SetCameraUpDirectionMessage") == pytest.approx([0, -1, 0], abs=1e-6))
    until(lambda: list(value(one, "Near, far")) == [0, 0] == list(value(one, "Depth colours")))
    assert value(one, "Show") == "Colour"
    until(lambda: value(one, "View angle (°)") == pytest.approx(math.degrees(fov), abs=0.05))
    one.look(fov=fov)
    until(lambda: np.array_equal(one.pictures[-1], first))


def test_lengths_and_grid_are_in_metres(one: FakeBrowser) -> None:
    until(lambda: one.says("Trail of the cameras: 0.4 m  \nFrom them to what they look at: 1 m"))
    assert not [n for n in list(one.nodes) if n.startswith("/scale")]
    one.use("Scale grid", True)
    grid = until(lambda: one.nodes.get("/scale/grid"))
    assert grid["cell_size"] == pytest.approx(0.1)
    until(lambda: one.says("Squares of the grid: 0.1 m"))
    until(lambda: squares(one) == "0.1 m")
    one.use("Metres per unit", 100.0)
    until(lambda: one.says("Trail of the cameras: 40 m") and one.says("Squares of the grid: 10 m"))
    until(lambda: squares(one) == "10 m")
    one.use("Metres per unit", 0.0)
    until(lambda: one.says("Metres per unit must be more than 0."))
    one.use("Metres per unit", 1.0)
    until(lambda: squares(one) == "0.1 m")
    level = list(one.nodes["/scale"]["wxyz"])
    one.use("Up", "+x")
    until(lambda: list(one.nodes.get("/scale", {}).get("wxyz", level)) != pytest.approx(level))

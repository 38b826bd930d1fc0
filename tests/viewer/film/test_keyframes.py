"""Films as values: closed forms of the curve, what editing does, and what comes back from files."""

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm.errors import InputError
from fsm.renderers.film.camera_path_json import read_camera_path
from fsm.renderers.film.splines import rotations
from fsm.viewer.cameras import Camera
from fsm.viewer.film.keyframes import MAX_KEYFRAMES, Curve, FilmPlan, History, Keyframe
from fsm.viewer.film.plan_json import PICKED, read_plan, write_plan

RANGE = (0.0, 2.0)
AHEAD = (1.0, 0.0, 0.0, 0.0)


def key(
    x: float = 0.0,
    seconds: float = 0.0,
    transition: float = 1.0,
    angle: float = 0.0,
    sign: float = 1.0,
    **camera,
):
    """Along x, turned by ``angle`` radians about y; ``sign`` picks one of the two quaternions of
    that rotation.
    """
    wxyz = (sign * math.cos(angle / 2), 0.0, sign * math.sin(angle / 2), 0.0)
    values = {
        "wxyz": wxyz,
        "position": (float(x), 0.5 * x, -float(x)),
        "fov": 0.8,
        "aspect": 1.5,
    } | camera
    return Keyframe(Camera(**values), float(seconds), float(transition))


def plan(*keys: Keyframe, **other: Any) -> FilmPlan:
    return FilmPlan(keys, **{"fps": 10.0, "hw": (32, 48), **other})


def test_equal_steps_on_a_line_are_one_constant_motion() -> None:
    film = plan(*(key(i, 0.2 * i, 1.5, angle=0.3 * i) for i in range(5)))
    views = film.frames()
    assert len(views) == 61
    along = torch.linspace(0, 4, 61, dtype=torch.float64)
    assert torch.allclose(views.c2w[:, 0, 3].double(), along, atol=1e-6)
    assert torch.allclose(views.c2w[:, 2, 3].double(), -along, atol=1e-6)
    assert torch.allclose(views.time.double(), 0.2 * along, atol=1e-6)
    angles = torch.atan2(views.c2w[:, 0, 2], views.c2w[:, 2, 2]).double()
    assert torch.allclose(angles, 0.3 * along, atol=1e-6)


def test_unequal_transitions_at_one_speed_are_one_constant_motion_too() -> None:
    film = plan(key(0, 0, 0.5), key(1, 0.1, 2.0), key(5, 0.5, 1.0), key(7, 0.7))
    views = film.frames()
    assert torch.allclose(views.c2w[:, 0, 3].diff(), torch.full((35,), 0.2), atol=1e-5)
    assert torch.allclose(views.time.diff(), torch.full((35,), 0.02), atol=1e-6)


def test_the_keyframes_are_passed_exactly() -> None:
    keys = [
        key(1, 0.3, 0.7, 0.2),
        key(-2, 1.9, 1.3, 2.0, fov=0.4),
        key(0.5, 0.2, 0.4, -1.0, fov=1.2),
    ]
    for loop, tension in itertools.product((False, True), (0.0, 0.4, 1.0)):
        film = plan(*keys, loop=loop, tension=tension)
        for expected, knot in zip((*keys, keys[0]), film.knots, strict=False):
            camera, seconds = film.at(knot)
            assert camera.position == pytest.approx(expected.camera.position, abs=1e-9)
            assert abs(np.dot(camera.wxyz, expected.camera.wxyz)) == pytest.approx(1, abs=1e-9)
            assert (camera.fov, seconds) == pytest.approx(
                (expected.camera.fov, expected.seconds), abs=1e-9
            )
            assert camera.aspect == 1.5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.floats(0.1, 5), st.floats(0.1, 2.5)), min_size=2, max_size=7
    ),
    st.booleans(),
    st.floats(0, 1),
)
def test_time_and_field_of_view_stay_between_their_keyframes(
    values, loop: bool, tension: float
) -> None:
    film = plan(
        *(key(i % 3, s, t, fov=f) for i, (s, t, f) in enumerate(values)), loop=loop, tension=tension
    )
    curve, knots = Curve(film), film.knots
    for i, (begin, end) in enumerate(itertools.pairwise(knots)):
        inside = curve.at(np.linspace(begin, end, 17))
        pair = (film.keyframes[i], film.keyframes[(i + 1) % len(film)])
        for found, ends in (
            (inside.seconds, [k.seconds for k in pair]),
            (inside.fov, [k.camera.fov for k in pair]),
        ):
            assert min(ends) - 1e-9 <= found.min()
            assert found.max() <= max(ends) + 1e-9
            steps = np.diff(found) * np.sign(ends[1] - ends[0])
            assert (steps >= -1e-9).all()  # and go one way


def test_between_equal_moments_time_stands_and_ascending_ones_never_turn_back() -> None:
    film = plan(key(0, 0.0), key(1, 1.0), key(2, 1.0), key(3, 1.1), key(4, 2.0))
    views = film.frames()
    assert views.time[10:21].tolist() == [1.0] * 11
    assert bool((views.time.diff() >= 0).all())
    assert float(views.time.max()) == 2.0


def test_a_loop_closes_with_its_velocity() -> None:
    keys = [
        key(0, 0.1, 1.0, 0.0),
        key(1, 0.5, 2.0, 1.0),
        key(-1, 0.9, 0.5, 2.5),
        key(2, 0.2, 1.5, -2.0),
    ]
    film = plan(*keys, loop=True)
    curve, end, h = Curve(film), film.duration, 1e-5
    assert end == 5.0
    before, after = curve.at([end - h, end]), curve.at([0.0, h])
    assert after.position[0] == pytest.approx(before.position[1], abs=1e-9)
    velocity = [np.diff(part.position, axis=0)[0] / h for part in (before, after)]
    assert velocity[0] == pytest.approx(velocity[1], abs=1e-3)
    assert np.linalg.norm(velocity[0]) > 0.05  # (not by standing still)
    turn = [rotations(torch.from_numpy(part.wxyz)).numpy() for part in (before, after)]
    spin = [(r[0].T @ r[1] - np.eye(3)) / h for r in turn]
    assert spin[0] == pytest.approx(spin[1], abs=1e-3)
    views = film.frames()
    assert len(views) == 50  # the first frame comes once
    assert not torch.equal(views.c2w[-1], views.c2w[0])


def test_tension_brings_the_camera_to_rest() -> None:
    keys = [key(0), key(1), key(1, 0, 1, 1.0, position=(1.0, 3.0, 0.0)), key(0)]
    speed = []
    for tension in (0.0, 1.0):
        curve = Curve(plan(*keys, tension=tension))
        speed.append(np.linalg.norm(np.diff(curve.at([1.0, 1.0 + 1e-6]).position, axis=0)) / 1e-6)
    assert speed[0] > 0.5
    assert speed[1] == pytest.approx(0, abs=1e-4)


def test_both_quaternions_of_a_rotation_are_one_pose() -> None:
    angles = [0.0, 0.8, 1.6, 2.4, 3.2, 4.0, 4.8, 5.6, 6.4]  # more than a whole turn
    for loop in (False, True):
        one = plan(*(key(i, 0, 1, a) for i, a in enumerate(angles)), loop=loop).frames()
        other = plan(
            *(key(i, 0, 1, a, (-1) ** (i // 2)) for i, a in enumerate(angles)), loop=loop
        ).frames()
        assert torch.allclose(one.c2w, other.c2w, atol=1e-6)
    turned = plan(key(0, 0, 1, 0.0), key(0, 0, 1, 0.5, -1.0)).frames().c2w
    angles = torch.atan2(turned[:, 0, 2], turned[:, 2, 2])
    assert torch.allclose(angles, torch.linspace(0, 0.5, 11), atol=1e-6)  # the short way


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_poses_and_few_keyframes_stand_still(count: int, loop: bool) -> None:
    film = plan(*[key(1, 0.4, 0.5, 2.0)] * count, loop=loop)
    views = film.frames()
    assert len(views) == (round(5 * count) if loop else 5 * (count - 1) + 1)
    assert torch.equal(views.c2w, views.c2w[:1].expand_as(views.c2w))
    assert views.time.tolist() == pytest.approx([0.4] * len(views))
    assert film.at(99.0)[0].position == (1.0, 0.5, -1.0)


def test_frames_are_square_pixels_around_the_centre() -> None:
    views = plan(key(fov=math.pi / 2), key(fov=math.pi / 2)).frames()
    assert views.hw == (32, 48)
    assert views.intrinsics[0].tolist() == pytest.approx([16, 16, 24, 16])


def test_a_film_of_nothing_or_too_much_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="no keyframes; set up a view"):
        plan().frames()
    with pytest.raises(InputError, match="no keyframes"):
        plan().at(0.0)
    with pytest.raises(InputError, match="more than 100000; shorten"):
        plan(*[key(transition=600)] * 300, fps=60.0).frames()
    with pytest.raises(InputError, match="delete some"):
        plan(*[key()] * MAX_KEYFRAMES).added(key())
    with pytest.raises(InputError, match="size is 0x32"):
        plan(key(), hw=(32, 0)).frames()


def test_editing_returns_other_films() -> None:
    a, b, c = key(0, transition=1.0), key(1, transition=2.0), key(2, transition=3.0)
    film = plan(a, b)
    assert film.added(c).keyframes == (a, b, c)
    assert film.added(c, 1).keyframes == (a, c, b)
    assert film.added(c).moved(2, 0).keyframes == (c, a, b)
    assert film.added(c).moved(0, 1).keyframes == (b, a, c)
    assert film.moved(1, 5) == film
    assert film.replaced(0, c).keyframes == (c, b)
    assert film.removed(0).keyframes == (b,)
    assert film.keyframes == (a, b)
    assert (film.knots, film.duration) == ((0.0, 1.0), 1.0)
    looped = dataclasses.replace(film, loop=True)
    assert (looped.knots, looped.duration) == ((0.0, 1.0, 3.0), 3.0)
    assert (plan().knots, plan().duration, plan(a).duration) == ((), 0.0, 0.0)


def test_steps_are_taken_back_and_forward() -> None:
    films = [plan(*[key(i) for i in range(n)]) for n in range(4)]
    history = History(films[0])
    for film in films[1:]:
        history = history.changed(film)
    back = history.undone().undone()
    assert back.present == films[1]
    assert back.redone().redone() == dataclasses.replace(history, doing=None)
    assert back.undone().undone().present == films[0]
    assert history.redone() == history
    other = back.changed(films[3])
    assert (other.after, other.undone().present) == ((), films[1])
    assert history.changed(films[3]) == history
    typed = back.changed(films[2], "fps").changed(films[3], "fps")
    assert typed.undone().present == films[1]
    assert typed.changed(films[2], "size").undone().present == films[3]


def some_film(**other: Any) -> FilmPlan:
    keys = (
        key(0.1, 1 / 3, 0.7, 0.3),
        key(-2, 2.0, 1 / 3, 2.9, fov=1.1),
        key(3, 0.1 + 0.2, 2.2, -1.7, -1.0),
    )
    return plan(*keys, **{"fps": 12.0, "tension": 0.3, **other})


@pytest.mark.parametrize("loop", [False, True])
def test_a_film_comes_back_from_its_file(tmp_path: Path, loop: bool) -> None:
    film, file = some_film(loop=loop), tmp_path / "camera_path.json"
    write_plan(file, film, RANGE)
    again, message = read_plan(file, RANGE)
    assert message == "3 keyframes"
    assert (again.fps, again.hw, again.loop, again.tension) == (
        film.fps,
        film.hw,
        film.loop,
        film.tension,
    )
    for found, sent in zip(again.keyframes, film.keyframes, strict=True):
        # to the last digit
        assert (found.seconds, found.transition) == (sent.seconds, sent.transition)
        assert found.camera.position == sent.camera.position
        assert found.camera.c2w.numpy() == pytest.approx(sent.camera.c2w.numpy(), abs=1e-14)
        assert (found.camera.fov, found.camera.aspect) == pytest.approx(
            (sent.camera.fov, 1.5), rel=1e-14
        )
    sent, path = film.frames(), read_camera_path(file, RANGE)
    for name in ("c2w", "intrinsics", "time"):  # what `fsm render` reads is what the viewer renders
        assert torch.equal(getattr(path.views, name), getattr(sent, name)), name
    assert (path.views.hw, path.fps, path.times_from) == (sent.hw, 12.0, "time")
    assert torch.allclose(again.frames().c2w, sent.c2w, atol=1e-6)


def test_the_file_is_nerfstudios(tmp_path: Path) -> None:
    film, file = some_film(), tmp_path / "camera_path.json"
    write_plan(file, film, RANGE)
    data = json.loads(file.read_text())
    first = data["keyframes"][1]
    matrix = np.array(first["matrix"]).reshape(4, 4)
    sent = film.keyframes[1].camera
    assert matrix[:3, 3].tolist() == list(sent.position)
    assert -matrix[:3, 2] == pytest.approx(sent.c2w[:3, 2].numpy())  # OpenGL looks along -z
    assert (first["fov"], first["aspect"]) == (pytest.approx(math.degrees(1.1)), 1.5)
    # nerfstudio keeps with a keyframe the seconds that lead to it; with the first those that close
    # the loop.
    assert [k["override_transition_sec"] for k in data["keyframes"]] == [2.2, 0.7, 1 / 3]
    assert all(
        k["override_transition_enabled"] and k["override_time_enabled"] for k in data["keyframes"]
    )
    assert first["render_time"] == 1.0
    assert (data["is_cycle"], data["smoothness_value"]) == (False, 0.3)
    assert (data["render_height"], data["render_width"], data["fps"]) == (32, 48, 12.0)


def altered(tmp_path: Path, change: Any, film: FilmPlan | None = None) -> Path:
    file = tmp_path / "camera_path.json"
    write_plan(file, some_film() if film is None else film, RANGE)
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    return file


def test_files_of_nerfstudio_keep_their_times(tmp_path: Path) -> None:
    def nerfstudio(data: dict[str, Any]) -> None:
        for entry in (*data["keyframes"], *data["camera_path"]):
            del entry["time"]
        for entry in data["keyframes"]:
            entry["override_transition_enabled"] = False
            entry["override_transition_sec"] = None
        data["keyframes"][1]["render_time"] = 0.25
        data["default_transition_sec"] = 3.5

    again, _ = read_plan(altered(tmp_path, nerfstudio), RANGE)
    assert [k.seconds for k in again.keyframes] == pytest.approx([1 / 3, 0.5, 0.3])
    assert [k.transition for k in again.keyframes] == [3.5] * 3


def test_files_of_nerfview_keep_their_times(tmp_path: Path) -> None:
    def nerfview(data: dict[str, Any]) -> None:
        del data["camera_type"]
        for entry in data["camera_path"]:
            del entry["time"]
        for entry in data["keyframes"]:
            for name in ("time", "render_time", "override_time_enabled"):
                del entry[name]

    film = plan(key(0, 0.0), key(1, 1.5), key(0, 2.0, 2.0, position=(0.0, 0.0, 0.0)), key(3, 0.5))
    again, _ = read_plan(altered(tmp_path, nerfview, film), RANGE)
    assert [k.seconds for k in again.keyframes] == pytest.approx([0.0, 1.5, 2.0, 0.5], abs=1e-6)
    assert [k.transition for k in again.keyframes] == [1.0, 1.0, 2.0, 1.0]


def test_files_of_the_first_nerfstudio_are_read(tmp_path: Path) -> None:
    def first(data: dict[str, Any]) -> None:
        for entry in data["keyframes"]:
            columns = np.array(entry["matrix"]).reshape(4, 4).T.flatten().tolist()
            entry["matrix"] = json.dumps(columns)
            for name in [name for name in entry if name not in ("matrix", "fov", "aspect")]:
                del entry[name]
        del data["default_transition_sec"]

    film = some_film()
    again, _ = read_plan(altered(tmp_path, first), RANGE)
    for found, sent in zip(again.keyframes, film.keyframes, strict=True):
        assert found.camera.c2w.numpy() == pytest.approx(sent.camera.c2w.numpy(), abs=1e-12)
    frames = len(film.frames())
    # evenly over its cameras
    assert [k.transition for k in again.keyframes] == [frames / 12.0 / 2] * 3


def test_a_path_without_keyframes_gets_some_of_its_own(tmp_path: Path) -> None:
    film = plan(*(key(i, 0.1 * i, 1.0, 0.1 * i) for i in range(5)))
    again, message = read_plan(altered(tmp_path, lambda data: data.pop("keyframes"), film), RANGE)
    assert message == "a path without keyframes: 5 picked evenly of 41"
    assert [k.seconds for k in again.keyframes] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [k.transition for k in again.keyframes[:-1]] == [1.0] * 4
    assert torch.allclose(again.frames().c2w, film.frames().c2w, atol=1e-5)
    long = plan(key(0, transition=100.0), key(1))
    assert (
        len(read_plan(altered(tmp_path, lambda data: data.update(keyframes=[]), long), RANGE)[0])
        == PICKED
    )
    still = read_plan(
        altered(tmp_path, lambda data: data.update(keyframes=[]), plan(key(2))), RANGE
    )[0]
    assert len(still) == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: d["keyframes"][1].update(matrix=[1.0] * 15),
            r"keyframes\[1\]: matrix should be 16 finite",
        ),
        (
            lambda d: d["keyframes"][1].update(matrix="[1, 2"),
            r"keyframes\[1\]: matrix should be 16 finite",
        ),
        (
            lambda d: d["keyframes"][0].update(matrix=[2.0] * 16),
            r"keyframes\[0\]: matrix is no rotation",
        ),
        (lambda d: d["keyframes"][2].pop("fov"), r"keyframes\[2\]: fov is None"),
        (
            lambda d: d["keyframes"][2].update(fov=200),
            r"keyframes\[2\]: fov is 200, expected a number from 1 to 170",
        ),
        (lambda d: d["keyframes"][0].update(aspect="wide"), r"keyframes\[0\]: aspect is 'wide'"),
        (
            lambda d: d["keyframes"][0].update(override_transition_sec=-1),
            "override_transition_sec is -1",
        ),
        (lambda d: d["keyframes"][0].update(time=True), "time is True"),
        (lambda d: d.update(is_cycle="yes"), "is_cycle is 'yes', expected true or false"),
        (
            lambda d: d.update(smoothness_value=3),
            "smoothness_value is 3, expected a number from 0 to 1",
        ),
        (lambda d: d.update(keyframes=d["keyframes"] * 200), "600 keyframes, more than 500"),
        (lambda d: d.update(camera_path=[]), "camera_path is empty"),
    ],
)
def test_bad_files_are_refused_in_a_sentence_that_names_the_field(
    tmp_path: Path, change: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        read_plan(altered(tmp_path, change), RANGE)

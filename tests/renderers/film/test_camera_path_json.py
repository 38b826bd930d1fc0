"""nerfstudio camera paths: a file in the peer's own format, round trips, the rules for time,
refusal of bad files.
"""

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.film.camera_path_json import read_camera_path, write_camera_path
from fsm.renderers.film.camera_paths import make_path
from fsm.views import Views

# As nerfstudio's render panel writes it: a camera 2 above the origin that looks along world -z
# (OpenGL's forward), then one that looks along world -x. No field of ours.
PEER = {
    "default_fov": 50.0,
    "default_time": 0.0,
    "default_transition_sec": 2.0,
    "keyframes": [
        {
            "matrix": [
                1.0,
                0.0,
                0.0,
                0.0,
                0.0,
                1.0,
                0.0,
                2.0,
                0.0,
                0.0,
                1.0,
                0.0,
                0.0,
                0.0,
                0.0,
                1.0,
            ],
            "fov": 50.0,
            "aspect": 1.7778,
            "override_transition_enabled": False,
            "override_transition_sec": None,
            "render_time": 0.25,
            "override_time_enabled": True,
        }
    ],
    "camera_type": "perspective",
    "render_height": 540,
    "render_width": 960,
    "fps": 24.0,
    "seconds": 0.125,
    "is_cycle": False,
    "smoothness_value": 0.5,
    "camera_path": [
        {
            "camera_to_world": [
                1.0,
                0.0,
                0.0,
                0.0,
                0.0,
                1.0,
                0.0,
                2.0,
                0.0,
                0.0,
                1.0,
                0.0,
                0.0,
                0.0,
                0.0,
                1.0,
            ],
            "fov": 90.0,
            "aspect": 1.7778,
            "render_time": 0.25,
        },
        {
            "camera_to_world": [
                0.0,
                0.0,
                1.0,
                3.0,
                0.0,
                1.0,
                0.0,
                2.0,
                -1.0,
                0.0,
                0.0,
                0.0,
                0.0,
                0.0,
                0.0,
                1.0,
            ],
            "fov": 60.0,
            "aspect": 1.7778,
            "render_time": 1.2,
        },
    ],
}


def _file(folder: Path, **change: object) -> Path:
    path = folder / "camera_path.json"
    path.write_text(json.dumps({**copy.deepcopy(PEER), **change}))
    return path


def _cameras(*changes: dict) -> list[dict]:
    return [
        {**camera, **change} for camera, change in zip(PEER["camera_path"], changes, strict=True)
    ]


def test_peer_file_is_read_in_our_conventions(tmp_path: Path) -> None:
    path = read_camera_path(_file(tmp_path), (10.0, 14.0))
    c2w = path.views.c2w
    assert c2w[0, :3, 2].tolist() == [0, 0, -1]  # forward
    assert c2w[0, :3, 1].tolist() == [0, -1, 0]  # image down
    assert c2w[0, :3, 3].tolist() == [0, 2, 0]
    assert c2w[1, :3, 2].tolist() == [-1, 0, 0]
    assert path.views.hw == (540, 960)
    f = 270 / math.tan(math.radians(30))
    assert torch.allclose(
        path.views.intrinsics, torch.tensor([[270.0, 270, 480, 270], [f, f, 480, 270]])
    )
    # 0.25 of four seconds; the overshoot 1.2 is held at the end
    assert path.views.time.tolist() == [11.0, 14.0]
    assert path.times_from == "render_time"
    assert path.fps == 24.0


def test_peer_file_survives_a_round_trip_with_its_keyframes_and_settings(tmp_path: Path) -> None:
    path = read_camera_path(_file(tmp_path, crop={"crop_center": [0, 0, 0]}), (10.0, 14.0))
    out = tmp_path / "again.json"
    write_camera_path(out, path.views, path.fps, (10.0, 14.0), path.keyframes, path.settings)
    written, original = (
        json.loads(out.read_text()),
        json.loads(_file(tmp_path, crop={"crop_center": [0, 0, 0]}).read_text()),
    )
    assert written["keyframes"] == original["keyframes"]
    assert set(original) <= set(written)
    for name in set(original) - {"camera_path", "seconds"}:
        assert written[name] == original[name], name
    assert written["seconds"] == pytest.approx(2 / 24)
    for mine, theirs in zip(written["camera_path"], original["camera_path"], strict=True):
        assert mine["camera_to_world"] == theirs["camera_to_world"]
        assert mine["fov"] == pytest.approx(theirs["fov"], abs=1e-4)
        assert mine["render_time"] == min(theirs["render_time"], 1.0)


def test_our_paths_come_back_exactly(tmp_path: Path) -> None:
    angle = torch.linspace(0, 0.5, 5)
    c2w = torch.eye(4).repeat(5, 1, 1)
    c2w[:, 0, 0] = c2w[:, 2, 2] = angle.cos()
    c2w[:, 0, 2], c2w[:, 2, 0] = angle.sin(), -angle.sin()
    c2w[:, :3, 3] = torch.randn(5, 3)
    inputs = Views(
        c2w, torch.tensor([80.0, 80.0, 48.0, 32.0]).repeat(5, 1), 0.37 * torch.arange(5.0), (64, 96)
    )
    views = make_path("interpolate", "follow", inputs, 13, (64, 96))
    out = tmp_path / "camera_path.json"
    write_camera_path(out, views, 30.0, (0.0, 1.48))
    path = read_camera_path(out, (0.0, 1.48))
    assert torch.equal(path.views.c2w, views.c2w)
    assert torch.equal(path.views.time, views.time)
    assert torch.allclose(path.views.intrinsics, views.intrinsics, rtol=1e-6)
    assert path.times_from == "time"
    assert path.keyframes == ()
    # What a peer without our seconds sees is the same clock.
    stripped = json.loads(out.read_text())
    for camera in stripped["camera_path"]:
        del camera["time"]
    out.write_text(json.dumps(stripped))
    assert torch.allclose(read_camera_path(out, (0.0, 1.48)).views.time, views.time, atol=1e-6)


def test_seconds_win_over_render_time(tmp_path: Path) -> None:
    path = read_camera_path(
        _file(tmp_path, camera_path=_cameras({"time": 13.5}, {"time": 11.0})), (10.0, 14.0)
    )
    assert path.views.time.tolist() == [13.5, 11.0]
    assert path.times_from == "time"


def test_times_are_used_only_if_all_cameras_have_them(tmp_path: Path) -> None:
    cameras = _cameras({"time": 13.5}, {})
    assert (
        read_camera_path(_file(tmp_path, camera_path=cameras), (10.0, 14.0)).times_from
        == "render_time"
    )
    del cameras[1]["render_time"]
    path = read_camera_path(_file(tmp_path, camera_path=cameras), (10.0, 14.0))
    assert path.times_from == "none"
    assert path.views.time.tolist() == [10.0, 14.0]


MIRROR = [-1.0, *PEER["camera_path"][0]["camera_to_world"][1:]]
COLUMNS = torch.tensor(PEER["camera_path"][0]["camera_to_world"]).view(4, 4).T.flatten().tolist()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"camera_type": "fisheye"}, "camera_type is 'fisheye'"),
        ({"render_height": 0}, "render_height is 0"),
        ({"render_width": 9.5}, "whole pixels"),
        ({"render_width": "wide"}, "render_width is 'wide'"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": True}, "fps is True"),
        ({"camera_path": []}, "camera_path is empty"),
        ({"camera_path": None}, "camera_path should be a list"),
        ({"camera_path": [1]}, "camera_path should be a list of objects"),
        ({"keyframes": {}}, "keyframes should be a list"),
        (
            {"camera_path": _cameras({}, {"camera_to_world": [1.0] * 12})},
            r"camera_path\[1\]: camera_to_world should be 16",
        ),
        ({"camera_path": _cameras({}, {"camera_to_world": [math.nan] * 16})}, "16 finite numbers"),
        (
            {"camera_path": _cameras({"camera_to_world": COLUMNS}, {})},
            r"camera_path\[0\].*row by row",
        ),
        ({"camera_path": _cameras({"camera_to_world": MIRROR}, {})}, "mirror"),
        ({"camera_path": _cameras({"fov": 0}, {})}, r"camera_path\[0\]: fov is 0"),
        ({"camera_path": _cameras({"fov": 180}, {})}, "fov is 180"),
        (
            {"camera_path": _cameras({}, {"render_time": "late"})},
            r"camera_path\[1\]: render_time is 'late'",
        ),
    ],
)
def test_malformed_files_are_named_with_the_field(tmp_path: Path, change: dict, says: str) -> None:
    file = _file(tmp_path, **change)
    with pytest.raises(InputError, match=says) as caught:
        read_camera_path(file, (0.0, 1.0))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("name", ["render_height", "fps", "camera_path"])
def test_missing_fields_are_named(tmp_path: Path, name: str) -> None:
    file = _file(tmp_path)
    document = json.loads(file.read_text())
    del document[name]
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match=name):
        read_camera_path(file, (0.0, 1.0))


def test_a_list_is_not_a_camera_path(tmp_path: Path) -> None:
    file = tmp_path / "camera_path.json"
    file.write_text("[]")
    with pytest.raises(InputError, match="found list"):
        read_camera_path(file, (0.0, 1.0))

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fsm.datasets.conventions import inverse, opengl_from_opencv
from fsm.datasets.readers.transforms_json import Transforms
from fsm.errors import InputError
from fsm.rays import project
from tests.datasets.contract import check_clip
from tests.datasets.media import counter_picture, fsm_json, read_counter

HW = (64, 128)


def transforms(frames: int = 6, **more: Any) -> dict[str, Any]:
    """A nerfstudio file over the camera path of ``fsm_json``."""
    poses = opengl_from_opencv(inverse(np.array([f["w2c"] for f in fsm_json(frames)["frames"]])))
    entries = [
        {"file_path": f"images/{i:03d}.png", "transform_matrix": T.tolist()}
        for i, T in enumerate(poses)
    ]
    return {
        "fl_x": 100.0,
        "fl_y": 101.0,
        "cx": 63.0,
        "cy": 33.0,
        "w": 128,
        "h": 64,
        "frames": entries,
        **more,
    }


def write(
    folder: Path, value: dict[str, Any], hw: tuple[int, int] = HW, images: str = "images"
) -> Path:
    """The file with pictures that show their place in ``frames``."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    for i in range(len(value["frames"])):
        cv2.imwrite(str(folder / images / f"{i:03d}.png"), counter_picture(i, hw))
    (folder / "transforms.json").write_text(json.dumps(value))
    return folder / "transforms.json"


def opened(path: Path, **more: Any):
    clips = Transforms(path, **more)
    return clips.clip(clips.ids[0])


def shown(clip, indices: list[int]) -> list[int]:
    rgb = clip.views(indices).rgb
    return [read_counter((picture * 255).numpy()) for picture in rgb]


def test_a_nerfstudio_folder_opens_as_a_clip(tmp_path: Path) -> None:
    write(tmp_path, transforms())
    clip = opened(tmp_path)
    check_clip(clip)
    expected = np.linalg.inv([f["w2c"] for f in fsm_json(6)["frames"]])
    assert np.allclose(clip.cameras.c2w, expected, atol=1e-6)
    assert clip.cameras.intrinsics[2].tolist() == [100, 101, 63, 33]
    assert clip.static
    assert clip.cameras.time.tolist() == [0.0] * 6
    assert shown(clip, [4, 1]) == [4, 1]
    film = opened(write(tmp_path, transforms(fps=30.0)))
    check_clip(film)
    assert torch.allclose(film.cameras.time, torch.arange(6) / 30)
    assert opened(write(tmp_path, transforms(fps=30.0, static=True))).static


@pytest.mark.parametrize("field", ["camera", "camera_id"])
def test_cameras_of_a_rig_share_moments(tmp_path: Path, field: str) -> None:
    value = transforms()
    for i, frame in enumerate(value["frames"]):
        frame["time"], frame[field] = i // 2, i % 2
    clip = opened(write(tmp_path, value))
    check_clip(clip)
    assert clip.camera_ids == ("0", "1") * 3
    assert clip.cameras.time.tolist() == [0, 0, 1, 1, 2, 2]
    value["frames"][3][field] = 0
    with pytest.raises(InputError, match="frame 3 has camera '0' and time 1 s, as frame 2 has"):
        opened(write(tmp_path, value))


def test_frames_are_put_in_the_order_of_their_names_or_times(tmp_path: Path) -> None:
    value = transforms()
    value["frames"] = value["frames"][::-1]
    assert shown(opened(write(tmp_path, value)), [0, 5]) == [0, 5]
    for frame, seconds in zip(value["frames"], [0.5, 1.0, 4.0, 0.25, 2.0, 1.25], strict=True):
        frame["time"] = seconds
    clip = opened(write(tmp_path, value))
    check_clip(clip)
    assert clip.cameras.time.tolist() == [0, 0.25, 0.75, 1.0, 1.75, 3.75]
    assert shown(clip, [0, 5]) == [2, 3]
    clip = opened(write(tmp_path, {**value, "time_unit": 2.0}))
    assert clip.cameras.time.tolist() == [0, 0.5, 1.5, 2.0, 3.5, 7.5]


def test_dl3dv_pictures_are_smaller_than_the_intrinsics_say(tmp_path: Path) -> None:
    value = transforms(fl_x=400.0, fl_y=404.0, cx=252.0, cy=132.0, w=512, h=256)
    clip = opened(write(tmp_path, value, images="images_4"))
    check_clip(clip)
    assert clip.cameras.hw == HW
    assert clip.cameras.intrinsics[0].tolist() == [100, 101, 63, 33]


def test_per_frame_intrinsics_and_field_of_view(tmp_path: Path) -> None:
    value = transforms()
    value["frames"][3]["fl_x"] = 90.0
    clip = opened(write(tmp_path, value))
    assert clip.cameras.intrinsics[:, 0].tolist() == [100, 100, 100, 90, 100, 100]
    value = {"camera_angle_x": math.radians(90), "frames": transforms()["frames"]}
    assert opened(write(tmp_path, value)).cameras.intrinsics[0].tolist() == pytest.approx(
        [64, 64, 64, 32]
    )


def test_named_splits_become_an_index_plan(tmp_path: Path) -> None:
    names = [f["file_path"] for f in transforms()["frames"]]
    value = transforms(
        train_filenames=[names[4], names[0], names[2]], test_filenames=[names[1], names[3]]
    )
    plan = opened(write(tmp_path, value)).index_plan
    assert plan is not None
    assert (plan.input_index, plan.target_index) == ((0, 2, 4), (1, 3))
    with pytest.raises(InputError, match=r"transforms.json: test_filenames names \['x.png'\]"):
        opened(write(tmp_path, {**value, "test_filenames": ["x.png"]}))


def test_masks_and_transparency(tmp_path: Path) -> None:
    value = transforms()
    path = write(tmp_path, value)
    rgba = np.zeros((*HW, 4), np.uint8)
    rgba[:, :64] = (0, 0, 255, 255)  # OpenCV's order: opaque red
    rgba[:, 64:96] = (255, 0, 0, 51)  # a fifth of blue
    cv2.imwrite(str(tmp_path / "images" / "000.png"), rgba)
    mask = np.zeros(HW, np.uint8)
    mask[10:20] = 1
    for i, frame in enumerate(value["frames"]):
        cv2.imwrite(str(tmp_path / f"mask{i}.png"), mask)
        frame["mask_path"] = f"mask{i}.png"
    path.write_text(json.dumps(value))
    views = opened(path).views([0])
    assert views.rgb is not None
    assert views.mask is not None
    assert views.rgb[0, :, 5, 5].tolist() == [1, 0, 0]
    assert views.rgb[0, :, 5, 70].tolist() == pytest.approx([0.8, 0.8, 1.0])
    assert views.rgb[0, :, 5, 120].tolist() == [1, 1, 1]
    assert views.mask[0, 0, :, 7].nonzero()[:, 0].tolist() == list(range(10, 20))
    del value["frames"][2]["mask_path"]
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"images/002\.png' lacks mask_path"):
        opened(path)


@pytest.mark.parametrize("coefficients", [(-0.2, 0.05, 0.0, 0.0), (0.12, -0.03, 0.004, -0.006)])
def test_lens_distortion_is_undone_in_pictures_and_intrinsics(
    tmp_path: Path, coefficients: tuple[float, ...]
) -> None:
    """Dots drawn where a distorting lens puts them must stand where the clip's pinhole camera
    says.
    """
    k1, k2, p1, p2 = coefficients
    h, w, fx, fy, cx, cy = 240, 320, 200.0, 205.0, 163.0, 118.0
    points = np.array([[x, y, 2.0] for x in (-0.9, -0.3, 0.4, 0.9) for y in (-0.6, 0.1, 0.6)])
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    u = fx * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) + cx
    v = fy * (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y) + cy
    ys, xs = np.mgrid[:h, :w] + 0.5
    dots = [
        np.exp(-((xs - a) ** 2 + (ys - b) ** 2) / (2 * 2.0**2)) for a, b in zip(u, v, strict=True)
    ]
    picture = np.sum(dots, axis=0)
    cv2.imwrite(
        str(tmp_path / "a.png"),
        np.repeat((picture.clip(0, 1) * 255).round().astype(np.uint8)[..., None], 3, 2),
    )
    pose = opengl_from_opencv(np.eye(4)).tolist()
    lens = {
        "fl_x": fx,
        "fl_y": fy,
        "cx": cx,
        "cy": cy,
        "w": w,
        "h": h,
        "k1": k1,
        "k2": k2,
        "p1": p1,
        "p2": p2,
    }
    value = {
        "camera_model": "OPENCV",
        **lens,
        "frames": [{"file_path": "a.png", "transform_matrix": pose}],
    }
    (tmp_path / "transforms.json").write_text(json.dumps(value))
    views = opened(tmp_path).views([0])
    assert views.rgb is not None
    assert not np.allclose(views.intrinsics[0], [fx, fy, cx, cy], atol=0.5)
    where, _ = project(torch.from_numpy(points).float(), views.c2w[0], views.intrinsics[0])
    for a, b in where.tolist():
        left, top = round(a) - 7, round(b) - 7
        if left < 0 or top < 0 or left + 14 > w or top + 14 > h:
            continue
        window = views.rgb[0, 0, top : top + 14, left : left + 14].numpy()
        window = np.where(window > 0.02, window, 0)
        found_x = (window * (np.arange(14) + left + 0.5)).sum() / window.sum()
        found_y = (window * (np.arange(14)[:, None] + top + 0.5)).sum() / window.sum()
        assert (found_x, found_y) == pytest.approx((a, b), abs=0.1)


def test_dnerf_splits_share_one_clock(shared_data: Path) -> None:
    clips = Transforms(shared_data / "dnerf_mutant_256")
    assert clips.ids == ("train", "val", "test")
    truth = json.loads((shared_data / "dnerf_mutant_256" / "cameras.json").read_text())["frames"]
    by_file = {f["file"]: f for f in truth}
    for split in clips.ids:
        clip = clips.clip(split)
        check_clip(clip, starts_at_zero=split == "train")
        stored = json.loads(
            (shared_data / "dnerf_mutant_256" / f"transforms_{split}.json").read_text()
        )["frames"]
        names = [
            f["file_path"].removeprefix("./") + ".png"
            for f in sorted(stored, key=lambda f: f["time"])
        ]
        expected = [by_file[name] for name in names]
        assert np.allclose(
            np.linalg.inv(clip.cameras.c2w.double()), [f["w2c"] for f in expected], atol=1e-5
        )
        assert np.allclose(clip.cameras.time, [f["time"] for f in expected], atol=1e-5)
        assert np.allclose(clip.cameras.intrinsics[0, 0], expected[0]["fl_x"], atol=1e-3)
    views = clips.clip("train").views([0])
    assert views.rgb is not None
    assert views.rgb[0, :, 0, 0].tolist() == [1, 1, 1]


def test_fox_cameras_are_those_of_an_independent_reading(shared_data: Path) -> None:
    clip = opened(shared_data / "fox_270x480")
    check_clip(clip)
    truth = json.loads((shared_data / "fox_270x480" / "cameras.json").read_text())["frames"]
    truth = sorted(truth, key=lambda f: f["file"])
    assert np.allclose(
        np.linalg.inv(clip.cameras.c2w.double()), [f["w2c"] for f in truth], atol=1e-5
    )


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != key}


def at(frame: int, **changed: Any) -> dict[str, Any]:
    value = transforms()
    value["frames"][frame].update(changed)
    return value


BAD: dict[str, tuple[Any, str]] = {
    "fisheye": (transforms(camera_model="OPENCV_FISHEYE"), "camera_model 'OPENCV_FISHEYE'"),
    "panorama": (transforms(camera_model="EQUIRECTANGULAR"), "camera_model 'EQUIRECTANGULAR'"),
    "k4": (transforms(k4=0.1), r"frames\[0\]: k4 is 0.1"),
    "no focal": (without(transforms(), "fl_x"), "neither fl_x nor camera_angle_x"),
    "degrees": ({**without(transforms(), "fl_x"), "camera_angle_x": 60.0}, "60 radians.*degrees"),
    "negative focal": (transforms(fl_x=-100.0), "frame 0, fx is -100"),
    "other aspect": (
        transforms(w=64, h=64),
        r"frames\[0\] states a size of 64 x 64, but its picture is 128 x 64",
    ),
    "no frames": (
        {**transforms(), "frames": []},
        "frames should be a list with at least one entry",
    ),
    "no pose": (
        at(2, transform_matrix=[[1, 0], [0, 1]]),
        r"frames\[2\]: transform_matrix has shape \(2, 2\)",
    ),
    "scaled": (
        at(2, transform_matrix=np.diag([2.0, 2.0, 2.0, 1.0]).tolist()),
        "frame 2, transform_matrix is not a rotation",
    ),
    "missing image": (
        at(2, file_path="images/x.png"),
        r"frames\[2\].file_path: 'images/x.png' does not exist",
    ),
    "outside": (
        at(2, file_path="../secret.png"),
        r"frames\[2\].file_path: '../secret.png' leads out of",
    ),
    "some times": (at(2, time=0.5), r"frames\[0\] lacks the field 'time'"),
    "text time": (
        {**at(0), "frames": [{**f, "time": "1s"} for f in transforms()["frames"]]},
        "time is '1s'",
    ),
    "nameless camera": (
        {**at(0), "frames": [{**f, "camera": ""} for f in transforms()["frames"]]},
        r"frames\[0\]: camera is '', expected text",
    ),
    "time unit": (
        {**at(0), "time_unit": 0, "frames": [{**f, "time": 0.5} for f in transforms()["frames"]]},
        "time_unit is 0",
    ),
    "not an object": ([1], "transforms.json should be a JSON object, found list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    value, message = BAD[case]
    cv2.imwrite(str(tmp_path / "secret.png"), counter_picture(0))
    folder = tmp_path / "data"
    write(folder, transforms())
    (folder / "transforms.json").write_text(json.dumps(value))
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        opened(folder)
    assert "\n" not in str(error.value)
    assert before == sorted(p.name for p in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty, truncated or not"), (b"rubbish", "empty, truncated or not"), (None, "has size")],
)
def test_bad_pictures_are_refused_when_read(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    clip = opened(write(tmp_path, transforms()))
    if content is None:
        cv2.imwrite(str(tmp_path / "images" / "003.png"), counter_picture(3, (32, 64)))
    else:
        (tmp_path / "images" / "003.png").write_bytes(content)
    clip.views([2])
    with pytest.raises(InputError, match=f"003.png .*{message}"):
        clip.views([3])


def test_fix_poses_takes_the_nearest_rotation(tmp_path: Path) -> None:
    value = at(2, transform_matrix=np.diag([2.0, 2.0, 2.0, 1.0]).tolist())
    write(tmp_path, value)
    clip = opened(tmp_path, fix_poses=True)
    check_clip(clip)
    assert torch.allclose(clip.cameras.c2w[2], torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))

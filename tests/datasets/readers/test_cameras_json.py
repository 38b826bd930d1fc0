import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fsm.datasets.inspect import inspect_clip
from fsm.datasets.open import open_clip
from fsm.datasets.readers.cameras_json import CamerasJson
from fsm.errors import InputError
from tests.datasets.contract import check_clip
from tests.datasets.media import counter_picture, counter_video, fsm_json, read_counter


def views(count: int = 6, **of_file: Any) -> dict[str, Any]:
    """A file of images over the camera path of ``fsm_json``, two seconds long, every third view
    held out.
    """
    entries = []
    for i, frame in enumerate(fsm_json(count)["frames"]):
        lens = {"w": 128, "h": 64, "fl_x": 100.0, "fl_y": 101.0, "cx": 63.0, "cy": 33.0}
        split = "test" if i % 3 == 1 else "train"
        time = 2 * i / (count - 1)
        entries.append(
            {
                "file": f"images/{i:03d}.png",
                "w2c": frame["w2c"],
                **lens,
                "time": time,
                "split": split,
            }
        )
    return {"scene": "small", "static": False, "frames": entries, **of_file}


def changed(
    value: dict[str, Any], which: int | slice = slice(None), **fields: Any
) -> dict[str, Any]:
    """``value`` with other fields in the frames ``which``; None removes one."""
    frames = [dict(f) for f in value["frames"]]
    for frame in [frames[which]] if isinstance(which, int) else frames[which]:
        frame.update(fields)
        for key in [k for k, v in fields.items() if v is None]:
            del frame[key]
    return {**value, "frames": frames}


def of_video(count: int = 6, fps: float | None = 15.0) -> dict[str, Any]:
    value = changed(views(count), file="clip.mp4")
    for i, frame in enumerate(value["frames"]):
        frame["frame"] = 2 * i
    return value if fps is None else {**value, "fps": fps}


def write(folder: Path, value: dict[str, Any]) -> Path:
    """The file as ``cameras.json``; images show their place in ``frames``, frames of the video
    their number.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(len(value["frames"])):
        cv2.imwrite(str(folder / "images" / f"{i:03d}.png"), counter_picture(i))
    if any(f.get("file") == "clip.mp4" for f in value["frames"]):
        counter_video(folder / "clip.mp4", 2 * len(value["frames"]))
    (folder / "cameras.json").write_text(json.dumps(value))
    return folder


def shown(clip, indices: list[int]) -> list[int]:
    return [read_counter((picture * 255).numpy()) for picture in clip.views(indices).rgb]


@pytest.mark.parametrize("by_folder", [True, False])
def test_images_make_a_clip(tmp_path: Path, by_folder: bool) -> None:
    folder = write(tmp_path / "scene", views())
    clip = open_clip(folder if by_folder else folder / "cameras.json")
    check_clip(clip)
    assert clip.id == "scene"
    assert np.allclose(
        clip.cameras.c2w, np.linalg.inv([f["w2c"] for f in fsm_json(6)["frames"]]), atol=1e-6
    )
    assert clip.cameras.intrinsics[2].tolist() == [100, 101, 63, 33]
    assert torch.allclose(clip.cameras.time, torch.arange(6) * 0.4)
    assert clip.fps is None
    assert clip.tracks() is None
    assert shown(clip, [4, 1]) == [4, 1]


def test_the_split_is_the_plan(tmp_path: Path) -> None:
    plan = open_clip(write(tmp_path, views())).index_plan
    assert plan is not None
    assert (plan.input_index, plan.target_index) == ((0, 2, 3, 5), (1, 4))
    for split in ("train", None):  # nothing held out, or nothing said
        assert open_clip(write(tmp_path, changed(views(), split=split))).index_plan is None


def test_frames_of_a_video_make_a_clip_on_the_videos_clock(tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path, of_video()))
    check_clip(clip)
    assert clip.fps == 15.0
    # not the 0.4 s of its field time
    assert torch.allclose(clip.cameras.time, torch.arange(6) * 2 / 15)
    assert shown(clip, [3, 1]) == [6, 2]
    without = open_clip(write(tmp_path, of_video(fps=None)))
    assert torch.allclose(without.cameras.time, torch.arange(6) * 0.4)
    assert shown(without, [3, 1]) == [6, 2]


def test_views_are_put_in_the_order_of_their_times_and_count_from_the_first(tmp_path: Path) -> None:
    value = views()
    for i, frame in enumerate(value["frames"]):
        frame["time"] = 9.0 - i
    clip = open_clip(write(tmp_path, value))
    assert clip.cameras.time.tolist() == [0, 1, 2, 3, 4, 5]
    assert shown(clip, [0, 5]) == [5, 0]
    assert np.allclose(clip.cameras.c2w[0], np.linalg.inv(value["frames"][5]["w2c"]), atol=1e-6)
    assert clip.index_plan is not None
    assert clip.index_plan.target_index == (1, 4)


@pytest.mark.parametrize("time", [0.0, 7.0, None])
@pytest.mark.parametrize("fps", [None, 10.0])
def test_a_static_scene_has_one_moment(
    tmp_path: Path, time: float | None, fps: float | None
) -> None:
    value = changed(views(static=True), time=time) | ({} if fps is None else {"fps": fps})
    clip = open_clip(write(tmp_path, value))
    check_clip(clip)
    assert clip.static
    assert clip.cameras.time.tolist() == [0.0] * 6
    assert shown(clip, [5, 0]) == [5, 0]
    assert clip.index_plan is not None
    assert clip.index_plan.target_index == (1, 4)


def test_what_says_that_it_is_static_is(tmp_path: Path) -> None:
    assert open_clip(write(tmp_path / "images", views(static=True))).static
    video = open_clip(write(tmp_path / "video", {**of_video(), "static": True}))
    check_clip(video)
    assert video.static
    assert shown(video, [3, 1]) == [6, 2]


def test_images_without_times_are_photographs_unless_a_rate_is_stated(tmp_path: Path) -> None:
    photographs = open_clip(write(tmp_path / "a", changed(views(), time=None)))
    assert photographs.static
    film = open_clip(write(tmp_path / "b", {**changed(views(), time=None), "fps": 10.0}))
    assert torch.allclose(film.cameras.time, torch.arange(6) / 10.0)


def rig(**of_file: Any) -> dict[str, Any]:
    """Two cameras at three moments, one moment after the other; the second camera is held out."""
    value = views(**of_file)
    for i, frame in enumerate(value["frames"]):
        frame["time"], frame["camera"] = i // 2, ("left", "right")[i % 2]
        frame["split"] = ("train", "test")[i % 2]
    return value


def test_a_rig_is_one_clip_whose_split_is_its_plan(tmp_path: Path) -> None:
    clip = open_clip(write(tmp_path / "rig", rig()))
    check_clip(clip)
    assert clip.id == "rig"
    assert clip.camera_ids == ("left", "right") * 3
    assert clip.cameras.time.tolist() == [0, 0, 1, 1, 2, 2]
    assert clip.index_plan is not None
    assert clip.index_plan.target_index == (1, 3, 5)
    with pytest.raises(
        InputError, match=r"frame 3 has camera 'left' and time 1 s, as frame 2 has; drop one"
    ):
        open_clip(write(tmp_path / "twice", changed(rig(), 3, camera="left")))
    with pytest.raises(InputError, match=r"frames\[3\] lacks the field 'camera'"):
        open_clip(write(tmp_path / "some", changed(rig(), 3, camera=None)))


def test_folders_name_the_cameras_of_frames_that_share_moments(tmp_path: Path) -> None:
    value = changed(rig(), camera=None, split=None)
    unnamed = open_clip(write(tmp_path, value))
    assert unnamed.camera_ids == ("0", "1") * 3
    for i, frame in enumerate(value["frames"]):
        name = f"images/{'ab'[i % 2]}/{i:03d}.png"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / frame["file"]).rename(tmp_path / name)
        frame["file"] = name
    (tmp_path / "cameras.json").write_text(json.dumps(value))
    clip = open_clip(tmp_path)
    check_clip(clip)
    assert clip.camera_ids == ("a", "b") * 3


def test_views_that_share_moments_make_a_clip_of_every_split_on_one_clock(tmp_path: Path) -> None:
    value = views()
    for i, frame in enumerate(value["frames"]):
        frame["time"], frame["split"] = 3.0 + i // 2, ("train", "test")[i % 2]
    clips = CamerasJson(write(tmp_path, changed(value, 1, time=3.5)))
    assert clips.ids == ("train", "test")
    train, test = clips.clip("train"), clips.clip("test")
    check_clip(train)
    check_clip(test, starts_at_zero=False)
    assert train.cameras.time.tolist() == [0, 1, 2]
    assert test.cameras.time.tolist() == [0.5, 1, 2]
    assert (shown(train, [0, 1, 2]), shown(test, [0, 1, 2])) == ([0, 2, 4], [1, 3, 5])
    assert open_clip(tmp_path).id == "train"


def test_lens_distortion_is_removed_from_images_and_refused_in_videos(tmp_path: Path) -> None:
    straight = open_clip(write(tmp_path / "a", views())).views([5]).rgb
    clip = open_clip(write(tmp_path / "b", changed(views(), k1=0.2)))
    bent = clip.views([5]).rgb
    assert straight is not None
    assert bent is not None
    assert (bent - straight).abs().max() > 0.1
    assert clip.cameras.intrinsics[0, 0] != 100
    with pytest.raises(InputError, match="has lens distortion, which is not removed from videos"):
        open_clip(write(tmp_path / "c", changed(of_video(), k1=0.2)))


BAD = {
    "no pose": (changed(views(), 2, w2c=None), r"frames\[2\] lacks the field 'w2c'"),
    "scaled pose": (changed(views(), 2, w2c=(2 * np.eye(4)).tolist()), "frame 2, w2c"),
    "no file": (changed(views(), 3, file=None), r"frames\[3\] lacks the field 'file'"),
    "missing image": (
        changed(views(), 3, file="images/x.png"),
        r"frames\[3\]\.file: 'images/x\.png' does not exist",
    ),
    "image outside": (
        changed(views(), 3, file="../x.png"),
        r"frames\[3\]\.file: '\.\./x\.png' leads out of",
    ),
    "no focal": (
        changed(views(), 1, fl_x=None),
        r"frames\[1\] has neither fl_x nor camera_angle_x",
    ),
    "odd split": (
        changed(views(), 1, split="dev"),
        r"frames\[1\]: split is 'dev', expected train, val, test",
    ),
    "number repeats": (
        changed(changed(of_video(), 2, frame=2), split="train"),
        r"frame 2, time 0.1\d* s repeats that of frame 1",
    ),
    "static number repeats": (
        {**changed(of_video(), 2, frame=2), "static": True},
        "frame 2, number 2 of the video repeats that of frame 1",
    ),
    "some times": (changed(views(), 4, time=None), r"frames\[4\] lacks the field 'time'"),
    "no times": (
        changed(of_video(fps=None), time=None),
        'has no times; give the file "fps" and every frame its number "frame"',
    ),
    "fps": ({**of_video(), "fps": 0}, "fps is 0.0"),
    "no number": (
        changed(of_video(fps=None), 2, frame=None),
        r"frames\[2\] lacks the field 'frame'",
    ),
    "past the end": (
        changed(of_video(), 5, frame=12),
        r"frames\[5\]: frame is 12, but clip\.mp4 has 12 frames",
    ),
    "two sources": (
        changed(of_video(), 5, file="images/001.png"),
        r"frames\[5\]: file is '001\.png', others 'clip\.mp4'",
    ),
    "size": (
        changed(views(), 0, w=64),
        r"frames\[0\] states a size of 64 x 64, but its picture is 128 x 64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    value, message = BAD[case]
    with pytest.raises(InputError, match=message) as error:
        open_clip(write(tmp_path, value))
    assert "cameras.json" in str(error.value)


def test_an_unknown_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no clip 'x'; it has scene"):
        open_clip(write(tmp_path / "scene", views()), "x")


@pytest.mark.parametrize(
    ("name", "frames", "seconds", "inputs", "targets"),
    [
        ("stereo4d_5H9F5g7wIrY_625558892", 98, 97 / 30, 86, 12),
        ("stereo4d_sPD8TT3X5nI_128528529", 199, 198 / 30, 174, 25),
        ("nrnerf_example", 86, 1.0, 75, 11),
        ("llff_fern", 20, 0.0, 17, 3),
        ("snowmiku", 97, 0.0, 84, 13),
        ("fox_270x480/cameras.json", 50, 0.0, 43, 7),
    ],
)
def test_real_folders_open(
    shared_data: Path, name: str, frames: int, seconds: float, inputs: int, targets: int
) -> None:
    clip = open_clip(shared_data / name)
    assert len(clip) == frames
    assert float(clip.cameras.time[-1]) == pytest.approx(seconds)
    assert clip.index_plan is not None
    assert (len(clip.index_plan.input_index), len(clip.index_plan.target_index)) == (
        inputs,
        targets,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["stereo4d_5H9F5g7wIrY_625558892", "nrnerf_example", "fox_270x480/cameras.json"]
)
def test_real_cameras_agree_with_their_pictures(shared_data: Path, name: str) -> None:
    clip = open_clip(shared_data / name)
    check_clip(clip)
    assert inspect_clip(clip).verdict.startswith("consistent")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_same_views_through_two_formats_are_the_same(shared_data: Path, split: str) -> None:
    folder = shared_data / "dnerf_mutant_256"
    ours, native = open_clip(folder / "cameras.json", split), open_clip(folder, split)
    assert torch.allclose(ours.cameras.c2w, native.cameras.c2w, atol=1e-6)
    assert torch.allclose(ours.cameras.time, native.cameras.time, atol=1e-6)
    assert torch.allclose(ours.cameras.intrinsics, native.cameras.intrinsics, rtol=1e-5)
    assert torch.equal(ours.views([3]).rgb, native.views([3]).rgb)  # pyright: ignore[reportArgumentType]

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fsm.datasets.readers.fsm_clips import FsmClips
from fsm.errors import InputError
from tests.datasets.contract import check_clip
from tests.datasets.media import (
    counter_picture,
    counter_video,
    fsm_json,
    read_counter,
    write_fsm_clip,
)


def test_a_clip_file_opens_as_a_clip(tmp_path: Path) -> None:
    clips = FsmClips(write_fsm_clip(tmp_path))
    assert clips.ids == ("clip",)
    clip = clips.clip("clip")
    check_clip(clip)
    assert clip.fps == 30
    assert torch.allclose(clip.cameras.time, torch.arange(20) / 30)
    views = clip.views([7, 3])
    assert views.rgb is not None
    assert [read_counter((f * 255).numpy()) for f in views.rgb] == [7, 3]


@pytest.mark.parametrize("name", ["train.json", "val.json", "val_moving.json"])
def test_real_lists(shared_data: Path, name: str) -> None:
    clips = FsmClips(shared_data / "stereo4d_256" / name)
    assert len(clips) == {"train.json": 64, "val.json": 14, "val_moving.json": 9}[name]
    check_clip(clips.clip(clips.ids[-1]))


def test_cached_clip_is_the_same_clip(tmp_path: Path) -> None:
    clip = FsmClips(write_fsm_clip(tmp_path)).clip("clip")
    cached = clip.cached((32, 32))
    check_clip(cached)
    live, kept = clip.views(hw=(32, 32)), cached.views()
    assert live.rgb is not None
    assert kept.rgb is not None
    assert (live.rgb - kept.rgb).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(live.intrinsics, kept.intrinsics)


def test_every_frame_of_the_published_clip(shared_data: Path) -> None:
    folder = shared_data / "stereo4d_fZcNop_Aenw_88573338"
    clip = FsmClips(folder / "example.json").clip("fZcNop_Aenw_88573338")
    check_clip(clip)
    stored = json.loads((folder / "fZcNop_Aenw_88573338.jsonl").read_text())["frames"]
    assert np.allclose(
        np.linalg.inv(clip.cameras.c2w.double()), [f["w2c"] for f in stored], atol=1e-6
    )
    assert len(clip) == 199
    assert clip.cameras.time[-1] == pytest.approx(198 / 30)


def test_lists_in_both_spellings_and_repeated_names(tmp_path: Path) -> None:
    for part in ("a", "b"):
        write_fsm_clip(tmp_path / part, frames=4)
    (tmp_path / "one.json").write_text('["a/clip.json"]')
    (tmp_path / "two.jsonl").write_text('"a/clip.json"\n"b/clip.json"\n')
    assert FsmClips(tmp_path / "one.json").ids == ("clip",)
    clips = FsmClips(tmp_path / "two.jsonl")
    assert clips.ids == ("a/clip", "b/clip")
    assert clips.clip("b/clip").id == "b/clip"
    (tmp_path / "twice.json").write_text('["a/clip.json", "a/clip.json"]')
    with pytest.raises(InputError, match="clip 'a/clip' is listed twice"):
        FsmClips(tmp_path / "twice.json")


def test_frame_numbers_pick_video_frames_and_times(tmp_path: Path) -> None:
    value = fsm_json(20, fps=10)
    value["frames"] = value["frames"][3:20:4]
    write_fsm_clip(tmp_path)
    (tmp_path / "clip.json").write_text(json.dumps(value))
    clip = FsmClips(tmp_path / "clip.json").clip("clip")
    check_clip(clip)
    assert torch.allclose(clip.cameras.time, torch.arange(5) * 0.4)
    views = clip.views()
    assert views.rgb is not None
    assert [read_counter((f * 255).numpy()) for f in views.rgb] == [3, 7, 11, 15, 19]


def test_intrinsics_stated_for_another_size_are_scaled_to_the_video(tmp_path: Path) -> None:
    value = fsm_json(4)
    for frame in value["frames"]:
        frame.update(h=256, w=512, fx=400.0, fy=404.0, cx=256.0, cy=128.0)
    counter_video(tmp_path / "clip.mp4", 4)
    (tmp_path / "clip.json").write_text(json.dumps(value))
    assert FsmClips(tmp_path / "clip.json").clip("clip").cameras.intrinsics[1].tolist() == [
        100,
        101,
        64,
        32,
    ]


def test_pictures_in_a_folder(tmp_path: Path) -> None:
    import cv2

    value = fsm_json(6)
    del value["video_path"]
    (tmp_path / "images").mkdir()
    for i, frame in enumerate(value["frames"]):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), counter_picture(i))
        frame["file_path"] = f"images/{i}.png"
        if i % 2:
            del frame["frame_idx"]
    (tmp_path / "clip.json").write_text(json.dumps(value))
    clip = FsmClips(tmp_path / "clip.json").clip("clip")
    check_clip(clip)
    views = clip.views([5, 2])
    assert views.rgb is not None
    assert [read_counter((f * 255).numpy()) for f in views.rgb] == [5, 2]


def test_an_index_plan_is_kept(tmp_path: Path) -> None:
    plan = {"input_index": [0, 2], "target_index": [1]}
    clip = FsmClips(write_fsm_clip(tmp_path, 4, index_plan=plan)).clip("clip")
    assert clip.index_plan is not None
    assert (clip.index_plan.input_index, clip.index_plan.target_index) == ((0, 2), (1,))


def test_paths_of_another_machine_are_found_by_file_name(tmp_path: Path) -> None:
    for named in ("/data/elsewhere/clip.mp4", "../../other/clip.mp4", "static/datasets/clip.mp4"):
        folder = tmp_path / str(len(named))
        path = write_fsm_clip(folder, 4)
        path.write_text(json.dumps(fsm_json(4, video=named)))
        assert len(FsmClips(path).clip("clip")) == 4


def test_nothing_outside_the_data_folder_is_opened(tmp_path: Path) -> None:
    counter_video(tmp_path / "secret.mp4", 4)
    (tmp_path / "secret.json").write_text(json.dumps(fsm_json(4, video="secret.mp4")))
    data = tmp_path / "data"
    data.mkdir()
    (data / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (data / "links").symlink_to(tmp_path)
    for name in ("../secret.mp4", str(tmp_path / "secret.mp4"), "link.mp4", "links/secret.mp4"):
        (data / "clip.json").write_text(json.dumps(fsm_json(4, video=name)))
        with pytest.raises(
            InputError, match=f"clip.json: video_path: '{name}' leads out of the data folder"
        ):
            FsmClips(data / "clip.json").clip("clip")
    (data / "list.json").write_text('["../secret.json"]')
    with pytest.raises(
        InputError, match=r"list.json: entry 0: '../secret.json' leads out of the data folder"
    ):
        FsmClips(data / "list.json")
    # The same file inside the folder of the list may be shared by clips of its subfolders.
    write_fsm_clip(data / "sub", 4)
    counter_video(data / "shared.mp4", 4)
    (data / "sub" / "clip.json").write_text(json.dumps(fsm_json(4, video="../shared.mp4")))
    (data / "list.json").write_text('["sub/clip.json"]')
    assert len(FsmClips(data / "list.json").clip("clip")) == 4


def changed(frame: int | None, **more: Any) -> dict[str, Any]:
    value = fsm_json(6)
    (value if frame is None else value["frames"][frame]).update(more)
    return value


def lacking(frame: int | None, key: str) -> dict[str, Any]:
    value = fsm_json(6)
    del (value if frame is None else value["frames"][frame])[key]
    return value


PLAN = {"input_index": [0, 1], "target_index": [1, 2]}
BAD: dict[str, tuple[Any, str]] = {
    "nan pose": (changed(3, w2c=np.full((4, 4), np.nan).tolist()), "frame 3, w2c contains NaN"),
    "short pose": (changed(3, w2c=[1, 2, 3]), r"frames\[3\]: w2c has shape \(3,\)"),
    "text pose": (
        changed(3, w2c="identity"),
        r"frames\[3\]: w2c is 'identity', expected a 4x4 matrix",
    ),
    "zero pose": (
        changed(3, w2c=np.diag([0.0, 0, 0, 1]).tolist()),
        "frame 3, w2c has a mirrored or flat",
    ),
    "scaled pose": (
        changed(3, w2c=np.diag([2.0, 2, 2, 1]).tolist()),
        "frame 3, w2c is not a rotation",
    ),
    "no pose": (lacking(2, "w2c"), r"frames\[2\] lacks the field 'w2c'"),
    "zero focal": (changed(1, fx=0), "frame 1, fx is 0"),
    "nan focal": (changed(1, fx=float("nan")), r"frames\[1\]: fx is nan, expected a finite number"),
    "normalised": (
        changed(0, fx=0.8, fy=0.8, cx=0.5, cy=0.5),
        "frame 0, fx is 0.8; it looks normalised",
    ),
    "text focal": (changed(1, fx="100"), r"frames\[1\]: fx is '100', expected a finite number"),
    "other aspect": (
        changed(1, h=128),
        r"frames\[1\] states a size of 128 x 128, but its picture is 128 x 64",
    ),
    "repeated frame": (changed(2, frame_idx=1), "frame 2, time 0.0333333 s repeats"),
    "unsorted frames": (changed(2, frame_idx=0), "frame 2, time 0 s lies before that of frame 1"),
    "beyond the video": (
        changed(5, frame_idx=6),
        r"frames\[5\].frame_idx is 6, but clip.mp4 has 6 frames",
    ),
    "fraction": (
        changed(2, frame_idx=1.5),
        r"frames\[2\]: frame_idx is 1.5, expected a whole number",
    ),
    "negative": (changed(0, frame_idx=-1), r"frames\[0\]: frame_idx is -1"),
    "other count": (
        changed(None, num_video_frames=7),
        "num_video_frames is 7, but clip.mp4 has 6 frames",
    ),
    "fps": (changed(None, fps=0), "fps is 0"),
    "no video": (changed(None, video_path="other.mp4"), "video_path: 'other.mp4' does not exist"),
    "nul": (changed(None, video_path="a\0.mp4"), "video_path: .* is not a usable path"),
    "address": (
        changed(None, video_path="http://127.0.0.1/a.mp4"),
        "video_path: 'http://127.0.0.1/a.mp4' does not exist",
    ),
    "no video path": (lacking(None, "video_path"), "lacks the field 'video_path'"),
    "no frames": (changed(None, frames=[]), "frames should be a list with at least one entry"),
    "frame is a number": (
        changed(None, frames=[1]),
        r"frames\[0\] should be a JSON object, found int",
    ),
    "overlapping plan": (
        changed(None, index_plan=PLAN),
        r"frames \[1\] both as input and as target",
    ),
    "plan outside": (
        changed(None, index_plan={"input_index": [0], "target_index": [6]}),
        "target_index names frame 6",
    ),
    "plan of text": (
        changed(None, index_plan={"input_index": "all", "target_index": [6]}),
        "input_index is 'all'",
    ),
    "number": (3, "should hold one clip .* or a list of clip paths"),
    "empty list": ([], "should hold one clip .* or a list of clip paths"),
    "list of numbers": ([1], "should hold one clip .* or a list of clip paths"),
    "missing in list": (["clip.json", "gone.json"], "entry 1: 'gone.json' does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_clips_are_refused_in_one_sentence_by_file_and_field(tmp_path: Path, case: str) -> None:
    value, message = BAD[case]
    path = write_fsm_clip(tmp_path, 6)
    path.write_text(json.dumps(value))
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        FsmClips(path).clip("clip")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert before == sorted(p.name for p in tmp_path.rglob("*"))


def test_broken_json_is_refused(tmp_path: Path) -> None:
    for name, content in (
        ("a.json", '{"frames": ['),
        ("b.jsonl", '"x.json"\n{'),
        ("c.json", "[" * 100_000),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=f"{name} is not valid JSON"):
            FsmClips(tmp_path / name)
    with pytest.raises(InputError, match=r"gone\.json cannot be read"):
        FsmClips(tmp_path / "gone.json")

"""``fsm render`` end to end on a small untrained model: files, settings, paths from files,
refusals.
"""

import dataclasses
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import yaml

from fsm.blocks import BlockConfig
from fsm.cli import main
from fsm.cli.common import parse_size
from fsm.datasets.open import open_clip
from fsm.encoder import EncoderConfig
from fsm.errors import InputError
from fsm.model import FSM, ModelConfig
from fsm.open_scene import open_scene
from fsm.renderers.film.video import to_uint8
from fsm.renderers.heads.lvsm import LvsmHeadConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.renderers.heads.registry import HeadConfig
from tests.datasets.contract import check_clip

CLIP_FRAMES = [0, 12, 24, 36, 47]


def _model(head: HeadConfig) -> FSM:
    torch.manual_seed(0)
    block = BlockConfig(dim=64, attention_head_dim=32, ttt_heads=1)
    return FSM(ModelConfig(EncoderConfig(layers=1, patch=16, block=block), head)).eval()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "scene"
    _model(ReferenceHeadConfig()).reconstruct(
        open_clip("demo").views(CLIP_FRAMES, hw=(48, 64))
    ).save(folder)
    return folder


def test_everything_is_written_and_agrees(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert (
        main(["render", str(scene), "-o", str(out), "--frames", "3", "--format", "both", "--depth"])
        == 0
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "camera_path.json",
        "depth",
        "depth.mp4",
        "frames",
        "render.yaml",
        "video.mp4",
    ]
    with av.open(str(out / "video.mp4")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    pictures = [cv2.imread(str(out / "frames" / f"frame_{i:05d}.png")) for i in range(3)]
    assert [p.shape for p in pictures if p is not None] == [(48, 64, 3)] * 3
    # Frame i of the video is picture i and no other.
    errors = [
        [np.abs(frame.astype(float) - p[..., ::-1]).mean() for p in pictures if p is not None]
        for frame in decoded
    ]
    assert [int(np.argmin(row)) for row in errors] == [0, 1, 2]
    settings = yaml.safe_load((out / "render.yaml").read_text())
    assert settings["command"] == "render"
    assert (settings["path"], settings["time"], settings["frames"]) == ("orbit", "sweep", 3)
    assert (settings["fps"], settings["size"]) == (30.0, "64x48")


def test_pictures_are_the_scene_seen_from_the_written_path(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(
        [
            "render",
            str(scene),
            "-o",
            str(out),
            "--path",
            "input",
            "--frames",
            "2",
            "--format",
            "png",
        ]
    )
    picture = cv2.imread(str(out / "frames" / "frame_00001.png"))
    assert picture is not None
    cameras = json.loads((out / "frames" / "cameras.json").read_text())["frames"]
    # From the written camera: seen exactly from an input frame every point lands on a pixel's
    # centre, where the last bit decides.
    written = dataclasses.replace(
        open_clip("demo").views([47], hw=(48, 64)).without_rgb(),
        c2w=torch.tensor([cameras[1]["camera_to_world"]]),
    )
    expected = open_scene(scene).render(written).rgb[0]
    assert np.abs(picture[..., ::-1].astype(int) - to_uint8(expected)).max() <= 1
    truth = open_clip("demo").cameras
    assert torch.allclose(torch.tensor(cameras[1]["camera_to_world"]), truth.c2w[47], atol=1e-5)
    assert cameras[1]["time"] == pytest.approx(float(truth.time[47]))
    # what was rendered is a clip in its turn
    clip = open_clip(out / "frames")
    check_clip(clip)
    assert torch.allclose(clip.cameras.c2w[1], written.c2w[0], atol=1e-6)
    assert clip.cameras.hw == (48, 64)
    assert clip.cameras.time[1] - clip.cameras.time[0] == pytest.approx(
        cameras[1]["time"] - cameras[0]["time"]
    )


def test_written_path_renders_the_same_again(scene: Path, tmp_path: Path) -> None:
    first, again, frozen = (tmp_path / name for name in ("first", "again", "frozen"))
    main(
        [
            "render",
            str(scene),
            "-o",
            str(first),
            "--path",
            "spiral",
            "--frames",
            "3",
            "--format",
            "png",
            "--fps",
            "12",
        ]
    )
    path = str(first / "camera_path.json")
    assert main(["render", str(scene), "-o", str(again), "--path", path, "--format", "png"]) == 0
    settings = yaml.safe_load((again / "render.yaml").read_text())
    assert (settings["fps"], settings["time"], settings["frames"]) == (12.0, "follow", 3)
    for i in range(3):
        a, b = (cv2.imread(str(f / "frames" / f"frame_{i:05d}.png")) for f in (first, again))
        assert a is not None
        assert b is not None
        assert np.abs(a.astype(int) - b).max() <= 1
    assert (
        main(
            [
                "render",
                str(scene),
                "-o",
                str(frozen),
                "--path",
                path,
                "--time",
                "freeze=1",
                "--size",
                "32",
            ]
        )
        == 0
    )
    cameras = json.loads((frozen / "camera_path.json").read_text())
    assert [c["time"] for c in cameras["camera_path"]] == [1.0] * 3
    assert (cameras["render_height"], cameras["render_width"]) == (32, 43)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--path", "circle"], "path is 'circle'; choose input"),
        (["--path", "missing.json"], "missing.json cannot be read"),
        (["--time", "freeze=99"], "outside the inputs"),
        (["--size", "64by48"], "WIDTHxHEIGHT"),
        (["--fps", "-1"], "fps is -1"),
        (["--fps", "nan"], "fps is nan"),
        (["--frames", "0"], "found 0"),
        (["--batch", "0"], "batch is 0"),
        (["--device", "tpu9000"], "device is 'tpu9000'"),
        (["-o", "video.mp4"], "name a folder"),
    ],
)
def test_bad_flags_are_one_sentence_and_write_nothing(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    flags: list,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(scene), *flags]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_folder_without_a_scene_and_head_without_depth_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["render", str(tmp_path / "nothing")]) == 2
    assert "scene.json" in capsys.readouterr().err
    _model(LvsmHeadConfig()).reconstruct(open_clip("demo").views(CLIP_FRAMES, hw=(32, 32))).save(
        tmp_path / "plain"
    )
    assert (
        main(
            [
                "render",
                str(tmp_path / "plain"),
                "-o",
                str(tmp_path / "out"),
                "--depth",
                "--frames",
                "2",
            ]
        )
        == 2
    )
    assert "renders no depth" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_path_from_a_peer_without_times_sweeps_and_cannot_be_followed(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    main(["render", str(scene), "-o", str(tmp_path / "a"), "--frames", "3"])
    document = json.loads((tmp_path / "a" / "camera_path.json").read_text())
    for camera in document["camera_path"]:
        del camera["time"], camera["render_time"]
    peer = tmp_path / "peer.json"
    peer.write_text(json.dumps(document))
    assert main(["render", str(scene), "-o", str(tmp_path / "b"), "--path", str(peer)]) == 0
    times = [
        c["time"]
        for c in json.loads((tmp_path / "b" / "camera_path.json").read_text())["camera_path"]
    ]
    last = float(open_clip("demo").cameras.time[47])
    assert times == pytest.approx([0, last / 2, last], abs=1e-5)
    assert (
        main(
            [
                "render",
                str(scene),
                "-o",
                str(tmp_path / "c"),
                "--path",
                str(peer),
                "--time",
                "follow",
            ]
        )
        == 2
    )
    assert "no time for every camera" in capsys.readouterr().err
    assert (
        main(
            ["render", str(scene), "-o", str(tmp_path / "c"), "--path", str(peer), "--frames", "9"]
        )
        == 2
    )
    assert "--frames does not apply" in capsys.readouterr().err


def test_sizes() -> None:
    assert parse_size(None, (48, 64)) == (48, 64)
    assert parse_size("640x360", (48, 64)) == (360, 640)
    assert parse_size("96", (48, 64)) == (96, 128)
    for bad in ("", "0", "x", "640x", "1x2x3", "-4", "64 x", "99999"):
        with pytest.raises(InputError, match="size is"):
            parse_size(bad, (48, 64))


def test_a_memory_has_no_layers(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["-o", str(tmp_path / "out"), "--layer", "static"]
    assert main(["render", str(scene), *flags]) == 2
    assert "has no layers of Gaussians" in capsys.readouterr().err

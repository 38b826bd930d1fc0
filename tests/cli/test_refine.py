"""``fsm refine`` as a user runs it."""

import json
from pathlib import Path

import cv2
import pytest
import torch
import yaml

from fsm.cli import main
from fsm.datasets.base import Clip
from fsm.datasets.open import open_clip
from fsm.open_scene import open_scene
from fsm.refine.loop import Refinement
from fsm.renderers.gaussians.scene import GaussianScene
from tests.cli.small_inputs import FRAMES, refused, write_clip, write_model

SMALL = ["--size", "32x24", "--gaussians", "200", "--model", "none", "--set", "density.every=4"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def read_frames(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The frames of every call that decodes pixels."""
    calls, genuine = [], Clip.views

    def views(self: Clip, indices, hw=None):
        calls.append([int(i) for i in indices])
        return genuine(self, indices, hw)

    monkeypatch.setattr(Clip, "views", views)
    return calls


def test_from_a_clip_to_a_scene_and_on_from_there(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], read_frames: list[list[int]]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert (
        main(
            [
                "refine",
                "new",
                str(clip),
                "-o",
                str(first),
                "--steps",
                "10",
                "--hold-out",
                "5",
                *SMALL,
            ]
        )
        == 0
    )
    held_out = [2, 7, 12, 17]
    inputs = [i for i in range(FRAMES) if i not in held_out]
    assert sorted(read_frames) == sorted([inputs, held_out])
    said = capsys.readouterr().out
    assert "16 frames at 32x24, 10 steps" in said
    assert "on 4 held-out frames" in said
    assert sorted(p.name for p in first.iterdir()) == [
        "gaussians.safetensors",
        "metrics.json",
        "pictures.png",
        "refine.yaml",
        "scene.json",
    ]
    settings = yaml.safe_load((first / "refine.yaml").read_text())
    assert (settings["frames"], settings["held_out"], settings["config"]["steps"]) == (
        inputs,
        held_out,
        10,
    )
    numbers = json.loads((first / "metrics.json").read_text())
    assert numbers["after"]["psnr"] > numbers["before"]["psnr"]
    assert [round(f["seconds"], 4) for f in numbers["frames"]] == [
        round(float(t), 4) for t in open_clip(clip).cameras.time[held_out]
    ]
    mean = sum(f["after"]["psnr"] for f in numbers["frames"]) / 4
    assert numbers["after"]["psnr"] == pytest.approx(mean)
    assert cv2.imread(str(first / "pictures.png")) is not None
    scene = GaussianScene.load(first)
    assert scene.hw == (24, 32)
    assert torch.equal(scene.inputs.time, open_clip(clip).cameras.time[inputs])

    # What was held out is what the scene was not made from: nothing needs to be said a second time.
    assert (
        main(
            [
                "refine",
                str(first),
                str(clip),
                "-o",
                str(second),
                "--steps",
                "6",
                "--gaussians",
                "200",
                "--model",
                "none",
            ]
        )
        == 0
    )
    again = yaml.safe_load((second / "refine.yaml").read_text())
    assert (again["frames"], again["held_out"], again["size"]) == (inputs, held_out, "32x24")
    before = json.loads((second / "metrics.json").read_text())["before"]["psnr"]
    assert before == pytest.approx(numbers["after"]["psnr"], abs=0.01)


def test_ctrl_c_keeps_the_run_and_the_same_command_ends_it(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["refine", "new", str(clip), "--steps", "8", *SMALL]
    assert main([*command, "-o", str(tmp_path / "whole")]) == 0
    genuine = Refinement.one_step

    def step(self: Refinement) -> float:
        if self.step == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return genuine(self)

    with monkeypatch.context() as patch:
        patch.setattr(Refinement, "one_step", step)
        assert main([*command, "-o", str(tmp_path / "parts")]) == 130
    assert not (tmp_path / "parts" / "scene.json").exists()
    capsys.readouterr()
    assert main([*command[:4], "9", *SMALL, "-o", str(tmp_path / "parts")]) == 2
    assert "differs in config" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / "parts")]) == 0
    files = [tmp_path / name / "gaussians.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_scene_that_shows_the_clip_worse_than_the_clip_itself_is_not_started_from(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    black, out = tmp_path / "black", tmp_path / "out"
    assert (
        main(
            [
                "refine",
                "new",
                str(clip),
                "-o",
                str(black),
                "--steps",
                "1",
                "--hold-out",
                "0",
                *SMALL,
            ]
        )
        == 0
    )
    scene = GaussianScene.load(black)
    GaussianScene(
        scene.gaussians[:1],
        scene.frame,
        scene.inputs,
        background=torch.zeros(3),
        frames_seen=scene.frames_seen,
    ).save(black)
    command = [
        "refine",
        str(black),
        str(clip),
        "-o",
        str(out),
        "--steps",
        "1",
        "--gaussians",
        "200",
        "--model",
        "none",
    ]
    for flags, said, started in (
        (["--start", "scene"], False, "the scene"),
        ([], True, "Gaussians found in the clip"),
    ):
        capsys.readouterr()
        assert main([*command, *flags]) == 0
        assert ("starts from Gaussians found in the clip" in capsys.readouterr().out) == said
        assert json.loads((out / "metrics.json").read_text())["started_from"] == started


def test_with_nothing_held_out_the_report_says_so(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "refine",
        "new",
        str(clip),
        "-o",
        str(tmp_path / "all"),
        "--steps",
        "1",
        "--hold-out",
        "0",
    ]
    assert main([*command, *SMALL]) == 0
    assert "on 20 the frames refined on (none is held out)" in capsys.readouterr().out


def test_what_a_scene_has_seen_is_never_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whichever way a test frame came into a scene, refinement does not judge by it."""
    train, test = [0, 3, 6, 9, 12], [4, 10]
    plan = {"input_index": train, "target_index": test}
    clip = str(write_clip(tmp_path, lambda value: value.update(index_plan=plan)))
    short = [*SMALL, "--steps", "1"]

    model = str(write_model(tmp_path / "model"))
    read = ["reconstruct", clip, "--model", model, "--size", "64x32", "-o"]
    for flags, frames in ([], train), (["--frames", "all"], list(range(FRAMES))):
        assert main([*read, str(tmp_path / "memory"), *flags]) == 0
        settings = yaml.safe_load((tmp_path / "memory" / "reconstruct.yaml").read_text())
        seen = json.loads((tmp_path / "memory" / "scene.json").read_text())["frames_seen"]
        assert settings["frames"] == [number for _, number in seen] == frames

    clean, planted = str(tmp_path / "clean"), str(tmp_path / "planted")
    assert main(["refine", "new", clip, "-o", clean, *short]) == 0
    assert main(["refine", clean, clip, "-o", str(tmp_path / "again"), *short]) == 0
    settings = yaml.safe_load((tmp_path / "again" / "refine.yaml").read_text())
    assert (settings["frames"], settings["held_out"]) == (train, test)

    assert main(["refine", "new", clip, "-o", planted, "--hold-out", "0", *short]) == 0
    # Refined further on training frames alone, it has still seen the others.
    washed = str(tmp_path / "washed")
    inputs = ["--frames", "inputs", "--hold-out", "0"]
    assert main(["refine", planted, clip, "-o", washed, *inputs, *short]) == 0
    for scene in (planted, washed):
        line = refused(["refine", scene, clip, "-o", tmp_path / "out", *short], capsys, tmp_path)
        assert "the scene has seen the frames [4, 10]" in line

    meta = Path(clean) / "scene.json"
    value = json.loads(meta.read_text())
    del value["frames_seen"]
    meta.write_text(json.dumps(value))
    line = refused(["refine", clean, clip, "-o", tmp_path / "out", *short], capsys, tmp_path)
    assert "does not record which frames it has seen" in line


def test_refusals(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str | Path) -> str:
        return refused(["refine", *SMALL[:4], *arguments], capsys, tmp_path)

    memory = tmp_path / "memory"
    model = str(write_model(tmp_path / "model"))
    assert (
        main(["reconstruct", str(clip), "-o", str(memory), "--model", model, "--size", "64x32"])
        == 0
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    out = ["-o", str(tmp_path / "out")]
    assert "without Gaussians" in said(memory, clip, *out)
    assert "choose another folder" in said(memory, clip, "-o", memory)
    assert "exists and is not a scene" in said("new", clip, "-o", tmp_path / "notes")
    assert "is not a scene" in said(tmp_path / "nowhere", clip, *out)
    assert "does not exist" in said("new", tmp_path / "nowhere.json", *out)
    assert "--hold-out is 1" in said("new", clip, *out, "--hold-out", "1")
    assert "steps is 0" in said("new", clip, *out, "--steps", "0")
    assert "most is 0" in said("new", clip, *out, "--gaussians", "0")


@pytest.mark.parametrize("assignment", ["rates.meens=1", "density.in_time=2", "steps"])
def test_settings_that_are_none_are_refused(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], assignment: str
) -> None:
    line = refused(
        ["refine", "new", clip, "-o", tmp_path / "out", "--set", assignment], capsys, tmp_path
    )
    assert "--set" in line


def test_a_scene_is_made_again_without_the_frames_held_back(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], read_frames: list[list[int]]
) -> None:
    read = ["reconstruct", str(clip), "--decoder", "lrm", "--size", "64x32", "--inputs", "8"]
    assert main([*read, "-o", str(tmp_path / "scene")]) == 0
    command = ["refine", str(tmp_path / "scene"), str(clip), "--steps", "2", "--start", "scene"]
    command += ["--model", "none", "--set", "rates.sh=10"]  # steps that only make it worse
    read_frames.clear()
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())["held_back"]
    settings = yaml.safe_load((tmp_path / "out" / "refine.yaml").read_text())
    assert len(report["frames"]) == 2
    assert [i for i in settings["frames"] if i not in report["frames"]] in read_frames
    said = capsys.readouterr().out
    assert "refinement did not improve views it did not see; the scene is as it was" in said
    before, after = (open_scene(tmp_path / name) for name in ("scene", "out"))
    assert isinstance(before, GaussianScene)
    assert isinstance(after, GaussianScene)
    assert torch.equal(before.gaussians.means, after.gaussians.means)
    assert main([*command, "--hold-back", "0", "-o", str(tmp_path / "open")]) == 0
    assert "no frame was held back" in capsys.readouterr().out


def test_whole_cameras_of_a_rig_are_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], read_frames: list[list[int]]
) -> None:
    rig, refined, read = "world:3101:rig=3x4", tmp_path / "refined", tmp_path / "read"
    hold = ["--hold-cameras", "1"]
    command = ["refine", "new", rig, "-o", str(refined), "--steps", "2", *hold, *SMALL]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "moving" in said
    assert "on 4 held-out frames" in said
    settings = yaml.safe_load((refined / "refine.yaml").read_text())
    assert settings["held_out"] == [i for i in range(12) if i not in settings["frames"]]
    assert len(settings["frames"]) == 8
    metrics = json.loads((refined / "metrics.json").read_text())
    assert {"psnr", "psnr_moving", "psnr_standing"} <= set(metrics["after"])
    read_frames.clear()
    assert main(["reconstruct", rig, "-o", str(read), "--size", "32x32", *hold]) == 0
    assert sorted({i for call in read_frames for i in call}) == settings["frames"]


def test_a_model_gives_a_start_and_views_beside(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_model(tmp_path / "model"))
    short = ["--size", "64x32", "--gaussians", "200", "--steps", "2", "--model", model]
    command = ["refine", "new", str(clip), *short, "--set", "beside.views=3"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(report["tried"]) == {"what stands and what moves", "Gaussians found in the clip"}
    assert report["started_from"] == max(report["tried"], key=report["tried"].get)
    assert f"starts from {report['started_from']}" in said
    settings = yaml.safe_load((tmp_path / "out" / "refine.yaml").read_text())
    assert settings["config"]["beside"]["views"] == 3

    assert main([*command, "--hold-back", "0", "-o", str(tmp_path / "open")]) == 0
    report = json.loads((tmp_path / "open" / "metrics.json").read_text())
    assert (report["started_from"], report["tried"]) == ("Gaussians found in the clip", {})

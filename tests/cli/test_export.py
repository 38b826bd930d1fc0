"""``fsm export`` end to end: every format from a scene, from file to file, refusals,
interruption.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fsm.cli import main
from fsm.renderers.gaussians.scene import GaussianScene, Layer
from fsm.renderers.splat_files import SplatTable, read_table, up_rotation, write_table
from fsm.renderers.splat_files.scene_tables import SceneTables
from fsm.viewer.recording import record
from tests.cli.small_inputs import refused
from tests.renderers.splat_files.tables import assert_same_bits, random_table
from tests.renderers.splat_files.test_scenes import moving_scene
from tests.small import small_model, small_views


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("scenes") / "scene"
    moving_scene().save(folder)
    return folder


def test_moments_in_every_format(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = SceneTables.of(GaussianScene.load(scene)).at(1.5)
    for kind in ("ply", "splat", "spz", "compressed.ply"):
        out = tmp_path / f"a.{kind}"
        assert main(["export", str(scene), "-o", str(out), "--time", "1.5"]) == 0
        assert f"{len(table)} Gaussians of degree 1 at 1.500 s" in capsys.readouterr().out
        write_table(tmp_path / f"b.{kind}", table)
        assert out.read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
        settings = yaml.safe_load((tmp_path / f"a.{kind}.yaml").read_text())
        assert (settings["command"], settings["format"], settings["time"]) == (
            "export",
            "compressed-ply" if kind == "compressed.ply" else kind,
            1.5,
        )


def test_a_compressed_name_is_compressed_or_refused(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.compressed.ply"
    assert main(["export", str(scene), "-o", str(out)]) == 0
    assert b"packed_position" in out.read_bytes()[:4096]
    out.unlink()
    assert refused(["export", str(scene), "-o", str(out), "--format", "ply"], capsys, tmp_path)
    assert not out.exists()
    four = tmp_path / "a.spz"
    assert main(["export", str(scene), "-o", str(four), "--format", "spz-4"]) == 0
    assert four.read_bytes()[:5] == b"NGSP\x04"


def test_the_middle_is_the_default_moment_and_flags_do_what_they_say(
    scene: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.bin"
    flags = ["--format", "ply", "--up", "y", "--min-opacity", "0.5"]
    assert main(["export", str(scene), "-o", str(out), *flags]) == 0
    table = SceneTables.of(GaussianScene.load(scene), up_rotation("y")).at(2.0)
    opaque = table.logits.sigmoid() >= 0.5
    assert 0 < int(opaque.sum()) < len(table)
    assert_same_bits(read_table(out), table[opaque])


def test_sequence_and_safetensors(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # an older sequence is replaced
        assert main(["export", str(scene), "-o", str(tmp_path / "seq"), "--fps", "5"]) == 0
    assert "11 frames at 5 fps" in capsys.readouterr().out
    document = json.loads((tmp_path / "seq" / "frames.json").read_text())
    assert document["times"] == pytest.approx([1.0 + i / 5 for i in range(11)])
    tables = SceneTables.of(GaussianScene.load(scene))
    assert_same_bits(
        read_table(tmp_path / "seq" / "frame_00007.ply"), tables.at(document["times"][7])
    )
    assert yaml.safe_load((tmp_path / "seq" / "export.yaml").read_text())["fps"] == 5.0
    assert main(["export", str(scene), "-o", str(tmp_path / "a.safetensors")]) == 0
    assert load_file(tmp_path / "a.safetensors")["velocities"].shape == (200, 3)


def test_a_page_and_a_recording(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--min-opacity", "0.1", "--up", "z"]
    for name, more, moments, fps in (("a.html", [], 21, 10.0), ("b.viser", ["--fps", "4"], 9, 4.0)):
        assert main(["export", str(scene), "-o", str(tmp_path / name), *flags, *more]) == 0
        said = capsys.readouterr()
        kind = name.split(".")[1]
        film = record(
            GaussianScene.load(scene),
            "html" if kind == "html" else "viser",
            fps=fps,
            min_opacity=0.1,
            up="z",
            name="scene",
        )
        assert said.err == ""
        assert (
            f"{moments} moments at {fps:g} a second of up to {film.still + film.moving} Gaussians"
            in said.out
        )
        assert (tmp_path / name).stat().st_size == pytest.approx(len(film.content), rel=0.01)
        settings = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        assert (settings["format"], settings["fps"], settings["up"]) == (kind, fps, "z")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.html",
        "a.html.yaml",
        "b.viser",
        "b.viser.yaml",
    ]
    assert (tmp_path / "a.html").read_bytes()[:15] == b"<!doctype html>"


def test_a_splat_file_becomes_a_page_of_one_moment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = random_table(n=9)
    means = table.means.clone()
    means[4] = float("nan")
    write_table(tmp_path / "a.ply", dataclasses.replace(table, means=means))
    command = ["export", tmp_path / "a.ply", "-o", tmp_path / "a.html"]
    assert "--drop-invalid" in refused(command, capsys, tmp_path)
    assert main([*map(str, command), "--drop-invalid"]) == 0
    assert "1 moment of up to 8 Gaussians, 8 of them at rest" in capsys.readouterr().out


def test_files_become_other_files(tmp_path: Path) -> None:
    table = random_table(degree=2)
    write_table(tmp_path / "a.ply", table)
    assert main(["export", str(tmp_path / "a.ply"), "-o", str(tmp_path / "b.ply")]) == 0
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert (
        main(["export", str(tmp_path / "a.ply"), "-o", str(tmp_path / "c.spz"), "--up", "y"]) == 0
    )
    # and back
    assert (
        main(["export", str(tmp_path / "c.spz"), "-o", str(tmp_path / "d.splat"), "--up", "y"]) == 0
    )
    means = {tuple(np.round(m, 3)) for m in read_table(tmp_path / "d.splat").means.tolist()}
    # rounding may fall either way
    assert sum(tuple(np.round(m, 3)) in means for m in table.means.tolist()) > 290
    assert main(["export", str(tmp_path / "d.splat"), "-o", str(tmp_path / "e.ply")]) == 0
    assert read_table(tmp_path / "e.ply").sh_degree == 0


def test_invalid_gaussians_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = random_table(n=9)
    means = table.means.clone()
    means[4] = float("nan")
    write_table(tmp_path / "a.ply", dataclasses.replace(table, means=means))
    command = ["export", tmp_path / "a.ply", "-o", tmp_path / "b.ply"]
    assert "--drop-invalid" in refused(command, capsys, tmp_path)
    assert main([*map(str, command), "--drop-invalid"]) == 0
    assert len(read_table(tmp_path / "b.ply")) == 8


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["-o", "a.obj"],
            "end it in .ply, .splat, .spz, .sog, .ksplat, .safetensors, .4dgs, .glb",
        ),
        (["-o", "a.ply", "--format", "spz"], "leave one of them out"),
        (
            ["-o", "a.ply", "--time", "9"],
            "time is 9, outside the clip; choose from 1.000 to 3.000 seconds",
        ),
        (["-o", "a.ply", "--time", "nan"], "time is nan, outside the clip"),
        (["-o", "a.ply", "--min-opacity", "1.5"], "min-opacity is 1.5"),
        (["-o", "a.ply", "--min-opacity", "nan"], "min-opacity is nan"),
        (["-o", "a.ply", "--drop-invalid"], "--drop-invalid is for splat files"),
        (["-o", "seq", "--time", "1"], "--time is for a single moment"),
        (["-o", "seq", "--fps", "0"], "fps is 0"),
        (["-o", "seq", "--fps", "0.1"], "is one frame"),
        (["-o", "notes"], "holds 'todo.txt'"),
        (["-o", "notes/todo.txt", "--format", "ply-sequence"], "is a file; name a folder"),
        (["-o", "notes", "--format", "ply"], "a folder; name a file for ply"),
        (["-o", "a.safetensors", "--time", "1"], "leave --time and --min-opacity out"),
        (
            ["-o", "a.html", "--time", "1"],
            "--time is for a single moment, a html recording has all",
        ),
        (["-o", "a.viser", "--fps", "0"], "fps is 0"),
        (["-o", "a.html", "--min-opacity", "1"], "no Gaussians to show"),
        (["-o", "a.html", "--drop-invalid"], "--drop-invalid is for splat files"),
    ],
)
def test_bad_flags(
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("mine")
    assert says in refused(["export", scene, *flags], capsys, tmp_path)


def test_what_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_model().reconstruct(small_views()).save(tmp_path / "memory")
    said = refused(["export", tmp_path / "memory", "-o", tmp_path / "a.ply"], capsys, tmp_path)
    assert "holds no Gaussians to export" in said
    assert "--decoder lrm" in said
    assert "holds no Gaussians to export" in refused(
        ["export", tmp_path / "memory", "-o", tmp_path / "a.html"], capsys, tmp_path
    )
    write_table(tmp_path / "a.ply", random_table(n=3))
    for flags, says in (
        (["-o", tmp_path / "seq"], "does not move"),
        (["-o", tmp_path / "b.safetensors"], "does not move"),
        (["-o", tmp_path / "b.ply", "--time", "0"], "leave --time out"),
        (["-o", tmp_path / "a.ply"], "the scene itself"),
    ):
        assert says in refused(["export", tmp_path / "a.ply", *flags], capsys, tmp_path)
    assert "is not a scene" in refused(
        ["export", tmp_path / "no", "-o", tmp_path / "b.ply"], capsys, tmp_path
    )


def test_interruption_leaves_nothing(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at, calls = SceneTables.at, []

    def interrupted(self: SceneTables, seconds: float) -> SplatTable:
        calls.append(seconds)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return at(self, seconds)

    monkeypatch.setattr(SceneTables, "at", interrupted)
    assert main(["export", str(scene), "-o", str(tmp_path / "seq")]) == 130
    assert capsys.readouterr().err.strip().endswith("error: interrupted")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_splat_files_render(shared_data: Path, tmp_path: Path) -> None:
    """Whatever its container, one scene gives one picture."""
    import cv2

    pictures = []
    for name in ("biker.compressed.ply", "biker.spz"):
        path, out = shared_data / "splats" / name, tmp_path / name
        flags = ["--size", "120", "--frames", "2", "--format", "png"]
        assert main(["render", str(path), "-o", str(out), *flags]) == 0
        picture = cv2.imread(str(out / "frames" / "frame_00000.png"))
        assert picture is not None
        pictures.append(picture.astype(float))
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5
    assert 2.0 < pictures[0].mean() < 60.0  # a dark figure on black
    shown = np.argwhere(pictures[0].max(-1) > 20)
    height, width = shown.max(0) - shown.min(0)
    assert height > 1.5 * width  # standing
    head = pictures[0][shown[:, 0].min() : shown[:, 0].min() + height // 8]
    skin = head[head.max(-1) > 60].mean(0)
    # the head is at the top: its skin is redder than leather (BGR)
    assert skin[2] > skin[1] > skin[0]


def test_a_layer_alone(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers: tuple[Layer, ...] = ("static", "moving")
    for layer in layers:
        out = tmp_path / f"{layer}.ply"
        assert main(["export", str(scene), "-o", str(out), "--layer", layer]) == 0
        table = SceneTables.of(GaussianScene.load(scene).layer(layer)).at(2.0)
        assert_same_bits(read_table(out), table)
        assert layer == "moving" or len(table) == 20
    capsys.readouterr()
    splats = tmp_path / "static.ply"
    said = refused(
        ["export", splats, "-o", tmp_path / "b.ply", "--layer", "static"], capsys, tmp_path
    )
    assert "without layers" in said

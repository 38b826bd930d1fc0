"""``fsm view``: what it opens, what it refuses, and that it serves what it says."""

import re
from pathlib import Path

import pytest
import torch

import fsm.viewer
from fsm.cli import main
from fsm.cli.common import parse_size
from fsm.cli.reconstruct import choose_frames
from fsm.cli.view import SPLATS, View
from fsm.datasets.open import open_clip
from fsm.errors import InputError
from fsm.memory_scene import MemoryScene
from fsm.model import FSM
from fsm.renderers.gaussians.gaussians4d import Gaussians4D
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.splat_files import SUFFIXES
from fsm.viewer.stream import ReadingProgress
from fsm.views import SceneFrame
from tests.cli.small_inputs import write_clip, write_model
from tests.renderers.splat_files.test_scenes import moving_scene
from tests.viewer.fakes import browser, until


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> list:
    """Serve only until a browser has got its first picture; then hold the viewer, its address and
    the picture.
    """
    seen = []

    def run(viewer: fsm.viewer.Viewer) -> None:
        printed = capsys.readouterr().out
        address = re.search(r" at (http://\S+) \(Ctrl-C ends it\)", printed)
        assert address is not None, printed
        with viewer, browser(address[1]) as one:
            one.look(fov=0.7, hw=(64, 96))
            until(lambda: one.pictures, seconds=60)
            until(lambda: "/inputs/camera_0" in one.nodes)
            seen.append((viewer, one.pictures[-1], one.nodes["/inputs/camera_0"]))

    monkeypatch.setattr(fsm.viewer.Viewer, "run", run)
    return seen


def test_the_files_are_those_that_can_be_opened() -> None:
    assert set(SPLATS) == set(SUFFIXES)


def test_a_clip_is_reconstructed_and_then_a_scene_like_any(tmp_path: Path, visited: list) -> None:
    model, clip = write_model(tmp_path / "model"), write_clip(tmp_path)
    flags = [
        "--model",
        str(model),
        "--inputs",
        "4",
        "--size",
        "32",
        "--device",
        "cpu",
        "--port",
        "0",
    ]
    assert main(["view", str(clip), *flags]) == 0
    ((viewer, picture, node),) = visited
    stage = viewer._stage
    assert isinstance(stage.scene, MemoryScene)
    assert len(stage.times) == 4
    assert stage.inputs.views.rgb is not None
    assert picture.shape[0] == round(picture.shape[1] / 1.5)
    assert node["_image_data"] is not None

    stage.scene.save(tmp_path / "scene")
    for path in (tmp_path / "scene", tmp_path / "scene" / "scene.json"):
        assert main(["view", str(path), "--device", "cpu", "--port", "0"]) == 0
        again = visited[-1][0]._stage
        assert again.times == stage.times
        # the memory keeps the frames that its model copies from
        assert again.inputs.views.rgb is not None


def test_a_scene_shows_the_frames_of_the_clip_it_was_made_from(
    tmp_path: Path, visited: list, capsys: pytest.CaptureFixture
) -> None:
    clip = write_clip(tmp_path)
    views = open_clip(clip).views([0, 2, 4])
    gaussians = Gaussians4D.static(
        torch.randn(20, 3),
        torch.tensor([1.0, 0, 0, 0]).repeat(20, 1),
        torch.ones(20, 3),
        torch.ones(20),
        torch.ones(20, 1, 3),
    )
    GaussianScene(gaussians, SceneFrame.fit(views), views).save(tmp_path / "scene")
    flags = ["--device", "cpu", "--port", "0"]
    assert main(["view", str(tmp_path / "scene"), *flags]) == 0
    assert visited[-1][0]._stage.inputs.views.rgb is None
    assert main(["view", str(tmp_path / "scene"), "--clip", str(clip), *flags]) == 0
    found = visited[-1][0]._stage.inputs.views.rgb
    assert views.rgb is not None
    assert found is not None
    assert torch.allclose(found, views.rgb, atol=1e-6)
    capsys.readouterr()
    assert main(["view", str(tmp_path / "scene"), "--clip", "demo", *flags]) == 2
    assert "--clip is demo, which lacks frames of the moments and places" in capsys.readouterr().err
    assert main(["view", "demo", "--clip", str(clip), *flags]) == 2
    assert "--clip is for scenes, but demo is a clip itself" in capsys.readouterr().err


def test_a_clip_is_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model, clip = write_model(tmp_path / "model"), write_clip(tmp_path)
    final = []

    def run(viewer: fsm.viewer.Viewer) -> None:
        with viewer:
            until(lambda: (reading := viewer._stage.reading) and reading.over, seconds=60)
            final.append(viewer._stage)

    monkeypatch.setattr(fsm.viewer.Viewer, "run", run)
    flags = [
        "--model",
        str(model),
        "--inputs",
        "5",
        "--size",
        "32",
        "--device",
        "cpu",
        "--port",
        "0",
    ]
    assert main(["view", str(clip), "--stream", "--push", "2", *flags]) == 0
    assert "2 of " in capsys.readouterr().out
    (stage,) = final
    assert stage.reading == ReadingProgress(5, 5, over=True)
    assert len(stage.times) == 5
    loaded = FSM.from_pretrained(model)
    opened = open_clip(clip)
    views = opened.views(
        choose_frames(range(len(opened)), 5, 0),
        loaded.working_size(parse_size("32", opened.cameras.hw)),
    )
    request = views[2:3].without_rgb()
    assert torch.equal(
        stage.scene.render(request).rgb, loaded.reconstruct(views).render(request).rgb
    )


def test_a_splat_file_is_opened(tmp_path: Path, visited: list, small_splats: Path) -> None:
    assert main(["view", str(small_splats), "--device", "cpu", "--port", "0"]) == 0
    viewer, picture, node = visited[0]
    assert isinstance(viewer._stage.scene, GaussianScene)
    assert float(picture.std()) > 1.0
    assert node["_image_data"] is None


def test_a_scene_to_compare_with_is_opened_under_its_name(
    tmp_path: Path, visited: list, small_splats: Path
) -> None:
    other = small_splats.with_name("other.ply")
    other.write_bytes(small_splats.read_bytes())
    flags = ["--device", "cpu", "--port", "0"]
    assert main(["view", str(small_splats), "--compare", str(other), *flags]) == 0
    ((name, scene),) = visited[-1][0]._stage.compare.items()
    assert name == "other.ply"
    assert isinstance(scene, GaussianScene)
    assert main(["view", str(small_splats), "--compare", str(small_splats), *flags]) == 0
    # two of one name are told apart
    assert list(visited[-1][0]._stage.compare) == [str(small_splats)]


@pytest.fixture
def small_splats(tmp_path: Path) -> Path:
    import torch

    from fsm.renderers.splat_files import SplatTable, write_table

    n = 200
    table = SplatTable(
        means=torch.randn(n, 3),
        log_scales=torch.full((n, 3), -2.0),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        logits=torch.full((n,), 3.0),
        sh=torch.randn(n, 1, 3),
    )
    write_table(tmp_path / "small.ply", table, "ply")
    return tmp_path / "small.ply"


def _complaint(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    assert main(["view", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_refusals_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert "others can reach; add a token" in _complaint(capsys, "demo", "--host", "0.0.0.0")
    assert "token must be 16 to 128" in _complaint(capsys, "demo", "--token", "short")
    assert "does not exist; give a scene folder" in _complaint(capsys, str(tmp_path / "nothing"))
    (tmp_path / "broken.ply").write_bytes(b"ply\n")
    assert "broken.ply" in _complaint(capsys, str(tmp_path / "broken.ply"))
    assert "--inputs is for clips" in _complaint(
        capsys, str(tmp_path / "broken.ply"), "--inputs", "4"
    )
    assert "--stream is for clips" in _complaint(capsys, str(tmp_path / "broken.ply"), "--stream")
    assert "add --stream" in _complaint(capsys, "demo", "--push", "4")
    assert "push is 0" in _complaint(capsys, "demo", "--stream", "--push", "0")
    assert "nothing is not a scene" in _complaint(
        capsys, "demo", "--compare", str(tmp_path / "nothing")
    )
    assert "port is 99999" in _complaint(capsys, "demo", "--port", "99999")


def test_the_defaults_stay_on_this_machine() -> None:
    command = View("demo")
    assert (command.host, command.token) == ("127.0.0.1", None)


def test_it_is_shared_when_asked_and_goes_on_when_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moving_scene().save(tmp_path / "scene")
    ran = []

    def run(viewer: fsm.viewer.Viewer) -> None:
        viewer.stop()
        ran.append(viewer)

    def share(viewer: fsm.viewer.Viewer) -> str:
        raise InputError("nobody there; the viewer is not shared.")

    monkeypatch.setattr(fsm.viewer.Viewer, "run", run)
    command = ["view", str(tmp_path / "scene"), "--device", "cpu", "--port", "0", "--share"]
    monkeypatch.setattr(fsm.viewer.Viewer, "share", share)
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err == "error: nobody there; the viewer is not shared.\n"
    assert "shared at" not in said.out
    monkeypatch.setattr(fsm.viewer.Viewer, "share", lambda _: "https://abc.share.test/?token=x")
    assert main(command) == 0
    assert "\nshared at https://abc.share.test/?token=x\n" in capsys.readouterr().out
    assert len(ran) == 2

"""Photos and films of procedural worlds: the cameras that are found against the true ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.poses import aligned, angles, turns, write_pictures
from fsm.cli import main
from fsm.datasets.open import open_clip, without_cameras
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.poses import PoseOptions, find_poses
from fsm.poses.find import _scale
from fsm.renderers.film.video import to_uint8
from tests.poses.test_moving import two_cameras

pytest.importorskip("pycolmap", reason="cameras are found by pycolmap")
WORLD = "world:3101"
FRAMES = [*range(0, 60, 6)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, clip = tmp_path_factory.mktemp("photos"), open_clip(WORLD)
    assert isinstance(clip, RenderedClip)
    shown = clip.truth(clip.cameras[FRAMES].resized((256, 256)))
    for k, picture in enumerate(shown.rgb):
        Image.fromarray(to_uint8(picture)).save(folder / f"{k:04d}.png")
    return folder


def test_cameras_of_a_film_are_found(photos: Path, tmp_path: Path, capsys):
    code = main(["poses", str(photos), "-o", str(tmp_path / "clip"), "--fps", "4", "--keep-moving"])
    assert code == 0
    assert f"of {len(FRAMES)} pictures registered" in capsys.readouterr().out
    found, given = open_clip(tmp_path / "clip"), open_clip(WORLD)
    assert len(found) == len(FRAMES)
    assert found.cameras.time.tolist() == pytest.approx([0.25 * i for i in range(len(FRAMES))])
    true = given.cameras[FRAMES].c2w.double().numpy()
    own = found.cameras.c2w.double().numpy()
    way = np.linalg.norm(np.diff(true[:, :3, 3], axis=0), axis=1).sum()
    off = aligned(own[:, :3, 3], true[:, :3, 3]) - true[:, :3, 3]
    assert np.sqrt((off**2).sum(1).mean()) < 0.02 * way
    assert np.median(angles(turns(own), turns(true))) < 0.3
    # worlds are upright, and so is what was found
    assert found.cameras.c2w[:, 1, 1].min() > 0.9
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "clip" / "sparse").is_dir()


def test_a_camera_that_only_turns_is_refused(tmp_path: Path):
    clip = open_clip(WORLD)
    (tmp_path / "in").mkdir()
    write_pictures(clip, [0], tmp_path / "in")
    with Image.open(tmp_path / "in" / "0000.png") as image:
        for k in range(1, 5):
            image.save(tmp_path / "in" / f"{k:04d}.png")
    with pytest.raises(InputError, match="parallax"):
        find_poses(tmp_path / "in", tmp_path / "clip", PoseOptions(fps=10.0))
    assert not (tmp_path / "clip").exists()


def test_pictures_without_anything_in_common_are_refused(tmp_path: Path):
    (tmp_path / "in").mkdir()
    for k in range(3):
        noise = np.random.default_rng(k).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{k}.png")
    with pytest.raises(InputError, match="too little in common"):
        find_poses(tmp_path / "in", tmp_path / "clip")


def test_bad_requests_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="does not exist"):
        find_poses(tmp_path / "no.mp4", tmp_path / "clip")
    with pytest.raises(InputError, match="--frames is 2"):
        find_poses(tmp_path, tmp_path / "clip", PoseOptions(frames=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    assert main(["poses", str(tmp_path), "-o", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


def test_two_cameras_and_their_distance_give_metres():
    assert _scale(two_cameras(), ("a", "b", 0.6)) == pytest.approx(2.0)
    with pytest.raises(InputError, match="no picture 'c'"):
        _scale(two_cameras(), ("a", "c", 1.0))
    with pytest.raises(InputError, match="apart"):
        _scale(two_cameras(), ("a", "a", 1.0))


def test_what_has_no_cameras_is_recognised(photos: Path, tmp_path: Path, capsys):
    assert without_cameras(photos)
    assert main(["inspect", str(photos)]) == 2
    assert "fsm poses" in capsys.readouterr().err
    (tmp_path / "film.mp4").write_bytes(b"")
    assert without_cameras(tmp_path / "film.mp4")
    (tmp_path / "transforms.json").write_text("{}")
    assert not without_cameras(tmp_path)


def test_reconstruct_finds_cameras_once(photos: Path, tmp_path: Path, capsys):
    arguments = ["reconstruct", str(photos), "-o", str(tmp_path / "scene"), "--size", "32"]
    assert main(arguments) == 0
    assert "looking for them" in capsys.readouterr().out
    assert (tmp_path / "scene" / "scene.json").is_file()
    assert main(arguments) == 0
    assert "found before" in capsys.readouterr().out

"""``fsm layers``: maps of a scene's input frames as files."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from fsm.cli.main import main
from fsm.open_scene import open_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers") / "scene"
    assert main(["reconstruct", "demo", "--inputs", "3", "--size", "64", "-o", str(folder)]) == 0
    return folder


def test_maps_are_written_and_are_those_of_the_scene(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    assert main(["layers", str(scene), "-o", str(out)]) == 0
    found = open_scene(scene).layers()  # pyright: ignore[reportAttributeAccessIssue]
    for i in range(3):
        depth = np.load(out / "depth" / f"{i:05d}.npy")
        assert np.array_equal(depth, found.depth[i, 0].numpy())
        png: Any = cv2.imread(str(out / "depth" / f"{i:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert png.dtype == np.uint16
        near = depth < 65.0
        assert np.abs(png[near] / 1000.0 - depth[near]).max() <= 0.0006
        mask: Any = cv2.imread(str(out / "moving" / f"{i:05d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask > 0, (found.standing[i, 0] < 0.5).numpy())
        assert np.load(out / "velocity" / f"{i:05d}.npy").shape == (3, 64, 64)
    tracks = np.load(out / "tracks.npz")
    k, n = tracks["seen"].shape
    assert (tracks["points"].shape, tracks["group"].shape) == ((k, n, 3), (n,))
    assert k == 3
    assert np.isfinite(tracks["points"]).all()
    assert yaml.safe_load((out / "layers.yaml").read_text())["scene"] == str(scene)


def test_a_scene_of_gaussians_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = ["reconstruct", "demo", "--decoder", "lrm", "--inputs", "2", "--size", "32"]
    assert main([*made, "-o", str(tmp_path / "g")]) == 0
    assert main(["layers", str(tmp_path / "g"), "-o", str(tmp_path / "maps")]) == 2
    assert "--decoder lvsm" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()

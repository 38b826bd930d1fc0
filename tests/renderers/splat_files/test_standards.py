"""Files of standards, read back by the library that defines them or by OpenUSD."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fsm.cli import main
from fsm.errors import InputError
from fsm.renderers.gaussians.follow import Follow
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.motion.trajectories import Trajectories
from fsm.renderers.splat_files import SplatTable, up_rotation
from fsm.renderers.splat_files.scene_tables import SceneTables
from fsm.renderers.splat_files.standards import write_4dgs, write_glb, write_usd
from tests.renderers.splat_files.tables import rotation_error
from tests.renderers.splat_files.test_scenes import moving_scene

fourdgs = pytest.importorskip("fourdgs")


@pytest.fixture(scope="module")
def scene() -> GaussianScene:
    torch.manual_seed(0)
    return moving_scene(n=150, degree=3)


def test_a_moving_scene_is_the_same_at_every_moment(tmp_path: Path, scene: GaussianScene) -> None:
    tables = SceneTables.of(scene, up_rotation("y"))
    write_4dgs(tmp_path / "a.4dgs", tables, "y")
    read = fourdgs.read(str(tmp_path / "a.4dgs"))
    assert read.duration_sec == pytest.approx(2.0)
    assert read.header.attributes["coordinate_system"] == "y-up-right-handed"
    size = float(tables.scales.median())
    for seconds in (1.0, 1.7, 3.0):
        state, table = read.state_at(seconds - 1.0), tables.at(seconds)
        centres = torch.from_numpy(state["centers"]).float()
        index = torch.cdist(centres, table.means).argmin(1)
        assert len(centres) == len(table) == len(index.unique())
        other = table[index]
        assert float((centres - other.means).norm(dim=-1).max()) < 0.3 * size
        opacity = torch.from_numpy(state["opacity"]).float() - other.logits.sigmoid()
        assert float(opacity.abs().max()) < 0.01
        turns = torch.from_numpy(state["orientations"]).float()[:, [3, 0, 1, 2]]
        assert rotation_error(turns, other.quats) < 0.002
        codes = torch.from_numpy(read.gaussians.sh[state["indices"]].astype(np.float32))
        harmonics = codes.reshape(len(other), 15, 3) * 8.0 / 255.0 - 4.0
        assert float((harmonics - other.sh[:, 1:]).abs().max()) < 0.5 * 8.0 / 255.0 + 1e-4


def test_a_moment_is_that_of_the_scene_in_gltf(tmp_path: Path, scene: GaussianScene) -> None:
    table = SceneTables.of(scene, up_rotation("y")).at(1.7)
    write_glb(tmp_path / "a.glb", table)
    read = fourdgs.from_gltf(str(tmp_path / "a.glb"))
    assert np.allclose(read.gaussians.positions, table.means, atol=1e-6)
    assert np.allclose(read.gaussians.scales, table.log_scales.exp(), rtol=1e-5)
    assert np.allclose(read.gaussians.colors[:, 3], table.logits.sigmoid(), atol=1e-6)
    quats = torch.from_numpy(read.gaussians.rotations)[:, [3, 0, 1, 2]]
    assert rotation_error(quats, table.quats) < 1e-5


def test_every_frame_is_a_sample_of_the_stage(tmp_path: Path, scene: GaussianScene) -> None:
    Usd = pytest.importorskip("pxr.Usd")
    tables = SceneTables.of(scene, up_rotation("z"))
    write_usd(tmp_path / "a.usdc", tables, 5.0, "z")
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    assert stage.GetMetadata("upAxis") == "Z"
    assert (stage.GetTimeCodesPerSecond(), stage.GetEndTimeCode()) == (5.0, 10.0)
    prim = stage.GetPrimAtPath("/GaussianSplats")
    for frame in (0, 4, 10):
        centres = np.array(prim.GetAttribute("positions").Get(frame))
        table = tables.at(1.0 + frame / 5.0)
        assert np.allclose(np.sort(centres, 0), np.sort(table.means.numpy(), 0), atol=1e-5)


def test_what_the_formats_cannot_hold_is_refused(tmp_path: Path, scene: GaussianScene) -> None:
    turn = torch.tensor([[[1.0, 0, 0, 0]], [[0.9, 0.1, 0, 0]]])
    moves = Trajectories(torch.tensor([-1.0, 1.0]), turn, torch.zeros(2, 1, 3))
    follow = Follow(moves, torch.ones(5, 1), torch.arange(5))
    gaussians = dataclasses.replace(scene.gaussians, follow=follow)
    tables = SceneTables.of(GaussianScene(gaussians, scene.frame, scene.inputs))
    pytest.importorskip("pxr")
    with pytest.raises(InputError, match="5 Gaussians follow trajectories"):
        write_4dgs(tmp_path / "a.4dgs", tables, "y")
    with pytest.raises(InputError, match="5 Gaussians follow trajectories"):
        write_usd(tmp_path / "a.usd", tables, 5.0, "y")
    empty: SplatTable = SceneTables.of(scene).at(1.0)[:0]
    with pytest.raises(InputError, match="no Gaussians to write"):
        write_glb(tmp_path / "a.glb", empty)
    assert list(tmp_path.iterdir()) == []


def test_the_command(
    tmp_path: Path, scene: GaussianScene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.save(tmp_path / "scene")
    words = ["export", str(tmp_path / "scene"), "-o"]
    assert main([*words, str(tmp_path / "a.4dgs")]) == 0
    assert "150 moving Gaussians of degree 3" in capsys.readouterr().out
    assert fourdgs.read(str(tmp_path / "a.4dgs")).gaussians.count == 150
    assert main([*words, str(tmp_path / "a.glb"), "--time", "1.5"]) == 0
    assert main([*words, str(tmp_path / "b.glb"), "--up", "z"]) == 2
    assert "up is z; in glb it can be y." in capsys.readouterr().err
    assert main([*words, str(tmp_path / "b.4dgs"), "--min-opacity", "0.5"]) == 2
    assert not (tmp_path / "b.4dgs").exists()

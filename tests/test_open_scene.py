"""Scenes of every kind by their path."""

import json
from pathlib import Path

import pytest
import torch

from fsm.errors import InputError
from fsm.memory_scene import MemoryScene
from fsm.open_scene import open_scene
from fsm.renderers.gaussians.rasterize import Rasterization
from fsm.renderers.gaussians.scene import GaussianScene
from fsm.renderers.splat_files import write_table
from tests.renderers.splat_files.tables import random_table
from tests.renderers.splat_files.test_scenes import moving_scene
from tests.small import small_model, small_views


def test_each_kind_opens_as_what_it_is(tmp_path: Path) -> None:
    moving_scene(n=10).save(tmp_path / "gaussians")
    small_model().reconstruct(small_views()).save(tmp_path / "memory")
    assert isinstance(open_scene(tmp_path / "gaussians"), GaussianScene)
    assert isinstance(open_scene(tmp_path / "memory"), MemoryScene)
    assert isinstance(open_scene(tmp_path / "memory" / "scene.json"), MemoryScene)
    for kind in ("ply", "splat", "spz"):
        write_table(tmp_path / f"a.{kind}", random_table(n=9))
        scene = open_scene(str(tmp_path / f"a.{kind}"))
        assert isinstance(scene, GaussianScene)
        assert len(scene.gaussians) == 9


def test_a_backend_is_for_gaussians_and_has_to_work(tmp_path: Path) -> None:
    moving_scene(n=10).save(tmp_path / "gaussians")
    small_model().reconstruct(small_views()).save(tmp_path / "memory")
    for backend in ("cpu", "plain"):
        scene = open_scene(tmp_path / "gaussians", backend=backend)
        picture = scene.render(scene.inputs[:1])
        assert isinstance(picture, Rasterization)
        assert picture.backend == backend
        assert isinstance(open_scene(tmp_path / "memory", backend=backend), MemoryScene)
    with pytest.raises(InputError, match="backend is gsplat but the Gaussians are on cpu"):
        open_scene(tmp_path / "gaussians", backend="gsplat")


def test_a_scene_with_an_older_model_config_renders_the_same_bits(
    tmp_path: Path,
) -> None:
    scene, request = small_model(reference=True).reconstruct(small_views()), small_views(2, seed=9)
    scene.save(tmp_path / "scene")
    path = tmp_path / "scene" / "model" / "config.json"
    config = json.loads(path.read_text())
    head = config["model"].pop("head")
    del head["kind"]
    sweep = head.pop("stereo")["sweep"]
    old = {"sampling": "depth", "occlusion": True, "motion_guess": True}
    old |= {name: sweep[name] for name in ("planes", "fine_planes")}
    config["model"] |= {"reference_head": {**head, **old}, "gaussian_head": None}
    path.write_text(json.dumps(config))
    again = open_scene(tmp_path / "scene").render(request.without_rgb())
    assert torch.equal(again.rgb, scene.render(request.without_rgb()).rgb)


def test_anything_else_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing is not a scene; give a folder with scene.json"):
        open_scene(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"is a folder without a scene; give"):
        open_scene(tmp_path)
    (tmp_path / "scene.json").write_text(json.dumps({"kind": "mesh"}))
    with pytest.raises(InputError, match=r"scene.json has kind 'mesh'"):
        open_scene(tmp_path)
    (tmp_path / "scene.json").write_text("[1]")
    with pytest.raises(InputError, match="has kind None"):
        open_scene(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="not a splat file this package knows"):
        open_scene(tmp_path / "a.txt")

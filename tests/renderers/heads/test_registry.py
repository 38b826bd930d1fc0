"""What holds for every decoder head, whichever it is."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from fsm.blocks import BlockConfig
from fsm.config import from_dict, to_dict
from fsm.encoder import EncoderConfig
from fsm.model import FSM, ModelConfig
from fsm.open_scene import open_scene
from fsm.renderers.heads.registry import HEADS, HeadConfig
from tests.small import small_views

KINDS = sorted(HEADS)


def model_of(kind: str) -> FSM:
    torch.manual_seed(0)
    block = BlockConfig(dim=32, attention_head_dim=16, ns_dtype="float32")
    head = HEADS[kind][0]()
    return FSM(ModelConfig(EncoderConfig(block, layers=1, patch=8, chunk_tokens=12), head)).eval()


def test_the_union_and_the_registry_name_the_same_heads() -> None:
    assert {config for config, _ in HEADS.values()} == set(get_args(HeadConfig))
    assert all(config().kind == kind for kind, (config, _) in HEADS.items())
    assert {head.decoder for _, head in HEADS.values()} == {"lvsm", "lrm"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_says_which_head_it_is(kind: str) -> None:
    model = model_of(kind)
    assert type(model.head) is HEADS[kind][1]
    assert from_dict(ModelConfig, to_dict(model.config), "here") == model.config
    for name in model.head.learns_alone:
        assert any(True for _ in model.head.get_submodule(name).parameters())


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_was_rendered_before_changes_no_bit(kind: str) -> None:
    model, inputs = model_of(kind), small_views(6).batched()
    first, second = (small_views(2, seed=s).batched().without_rgb() for s in (7, 8))
    memory = model._read(inputs)
    fresh, used = (model.prepare(memory, model.head.kept(inputs)) for _ in range(2))
    model.decode(memory, first[:1], used)
    a, b = model.decode(memory, second, fresh), model.decode(memory, second, used)
    assert torch.equal(a.rgb, b.rgb)
    assert (a.depth is None) == (b.depth is None) == (kind == "lvsm")
    if a.depth is not None and b.depth is not None:
        assert torch.equal(a.depth, b.depth)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_in_two_parts_is_the_whole(kind: str) -> None:
    model, inputs, targets = model_of(kind), small_views(3).batched(), small_views(2).batched()
    prepared: Any = model.predict(inputs)
    memory = model._read(inputs)
    whole = model(inputs, targets).rgb
    torch.testing.assert_close(model.decode(memory, targets.without_rgb(), prepared).rgb, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_of_every_head_reopens_as_it_was(kind: str, tmp_path: Path) -> None:
    scene, request = model_of(kind).reconstruct(small_views()), small_views(2, 9).without_rgb()
    scene.save(tmp_path / "scene")
    again = open_scene(tmp_path / "scene")
    assert type(again) is type(scene)
    assert torch.equal(again.render(request).rgb, scene.render(request).rgb)

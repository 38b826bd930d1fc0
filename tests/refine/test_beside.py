"""Views beside the inputs: where cameras are, and that held-back frames do not
reach them.
"""

import dataclasses

import pytest
import torch

from fsm.blocks import BlockConfig
from fsm.encoder import EncoderConfig
from fsm.errors import InputError
from fsm.memory_scene import MemoryScene
from fsm.model import FSM, ModelConfig
from fsm.refine import BesideConfig, RefineConfig, from_model, held_back
from fsm.refine.beside import views_beside
from fsm.renderers.heads.lrm import LrmHeadConfig
from fsm.renderers.heads.reference import ReferenceHeadConfig
from fsm.views import SceneFrame, Views
from tests.refine.small_scenes import filmed, ring, scene_of, some_gaussians
from tests.small import SMALL_STEREO

ENCODER = EncoderConfig(
    BlockConfig(dim=32, attention_head_dim=16, mlp_ratio=2, ns_dtype="float32"),
    layers=1,
    patch=16,
    chunk_tokens=64,
)
CONFIG = RefineConfig(steps=10, beside=BesideConfig(views=5))


@pytest.fixture(scope="module")
def model() -> FSM:
    torch.manual_seed(0)
    head = ReferenceHeadConfig(
        references=2, hidden=16, stereo=SMALL_STEREO, refinements=(4,), refinement_width=8
    )
    return FSM(ModelConfig(ENCODER, head)).eval()


@pytest.fixture(scope="module")
def inputs() -> Views:
    scene = scene_of(some_gaussians(60), ring(8, (32, 32)), torch.ones(3))
    cameras = dataclasses.replace(
        ring(8, (32, 32)), frame_ids=torch.stack([torch.zeros(8).long(), torch.arange(8)], -1)
    )
    return filmed(scene, cameras)


def test_cameras_stand_beside_the_inputs_at_their_moments(model: FSM, inputs: Views) -> None:
    memory = model.reconstruct(inputs)
    assert isinstance(memory, MemoryScene)
    views = views_beside(memory, 10, 0)
    own = inputs[torch.arange(10) % 8]
    assert torch.equal(views.time, own.time)
    assert torch.equal(views.c2w[:, :3, :3], own.c2w[:, :3, :3])
    away = (views.c2w[:, :3, 3] - own.c2w[:, :3, 3]).norm(dim=1)
    depth = float(memory.layers().depth.median())
    assert float(away.min()) > 0.0
    assert 0.02 * depth < float(away.mean()) < 0.15 * depth
    assert views.rgb is not None
    assert torch.equal(views.rgb[3], memory.render(views[[3]].without_rgb()).rgb[0])
    assert views.mask is None
    assert torch.equal(views_beside(memory, 10, 0).rgb, views.rgb)  # pyright: ignore[reportArgumentType]
    assert not torch.equal(views_beside(memory, 10, 1).c2w, views.c2w)


def test_frames_held_back_reach_nothing_that_chooses(model: FSM, inputs: Views) -> None:
    """Whatever they show, the views beside and the start for the choice are the same to the bit."""
    kept = held_back(inputs)
    assert kept
    assert inputs.rgb is not None
    other = inputs.rgb.clone()
    other[kept] = torch.rand(other[kept].shape, generator=torch.Generator().manual_seed(1))
    frame = SceneFrame.fit(inputs)
    results = [
        from_model(model, dataclasses.replace(inputs, rgb=rgb), frame, CONFIG)
        for rgb in (inputs.rgb, other)
    ]
    (start, beside), (changed, changed_beside) = results
    assert beside is not None
    assert changed_beside is not None
    assert torch.equal(beside.views.rgb, changed_beside.views.rgb)  # pyright: ignore[reportArgumentType]
    assert torch.equal(beside.views.c2w, changed_beside.views.c2w)
    assert start.without is not None
    assert changed.without is not None
    assert torch.equal(start.without.gaussians.means, changed.without.gaussians.means)
    # The score and what all inputs make do depend on them: the test above can fail.
    assert beside.score != changed_beside.score
    assert not torch.equal(start.scene.gaussians.sh, changed.scene.gaussians.sh)
    seen = start.without.frames_seen
    assert seen is not None
    assert not set(kept) & set(seen[:, 1].tolist())


def test_no_views_beside_where_none_are_wanted(model: FSM, inputs: Views) -> None:
    config = dataclasses.replace(CONFIG, beside=BesideConfig(views=0))
    assert from_model(model, inputs, SceneFrame.fit(inputs), config)[1] is None


def test_a_model_of_gaussians_is_refused(inputs: Views) -> None:
    model = FSM(ModelConfig(ENCODER, LrmHeadConfig())).eval()
    with pytest.raises(InputError, match="finds no depth"):
        from_model(model, inputs, SceneFrame.fit(inputs), CONFIG)

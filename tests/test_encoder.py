"""What the encoder promises: schedules, splits, batches, checkpointing and precision change nothing
they must not.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fsm.blocks import BlockConfig, record_pull_ratio
from fsm.encoder import CHANNELS, Encoder, EncoderConfig, unpatchify
from fsm.errors import InputError
from fsm.model import FSM, ModelConfig, parameter_count
from fsm.rays import pixel_rays
from fsm.train.config import load_preset
from fsm.train.parallelize import parallelize
from fsm.ttt import ElasticConfig
from fsm.views import SceneFrame, Views
from tests.small import small_model, small_views

REPOSITORY = Path(__file__).resolve().parent.parent
SCHEDULES = ("update-all-then-apply", "causal")


def push(encoder: Encoder, views: Views, sizes: list[int]):
    memory, start = encoder.empty(views.c2w.shape[0]), 0
    for size in sizes:
        memory, start = encoder.update(memory, views[start : start + size]), start + size
    return encoder.finish(memory)


def normal(v: int = 5, seed: int = 0) -> Views:
    views = small_views(v, seed).batched()
    return SceneFrame.fit(views).to_model(views)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_splitting_a_stream_into_any_pushes_changes_nothing(schedule: str) -> None:
    encoder, views = small_model(schedule=schedule).encoder, normal()
    whole = encoder.query(push(encoder, views, [5]), views[:2].without_rgb())
    for sizes in ([1, 1, 1, 1, 1], [2, 3], [4, 1], [3, 2]):
        assert torch.equal(
            whole, encoder.query(push(encoder, views, sizes), views[:2].without_rgb())
        ), sizes


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_batch_of_three_equals_three_batches_of_one(schedule: str) -> None:
    encoder = small_model(schedule=schedule).encoder
    samples = [normal(seed=s) for s in range(3)]
    batch = Views.stack([s.unbatched() for s in samples])
    together = encoder.query(push(encoder, batch, [5]), batch.without_rgb())
    for b, sample in enumerate(samples):
        alone = encoder.query(push(encoder, sample, [5]), sample.without_rgb())
        torch.testing.assert_close(together[b], alone[0], rtol=1e-4, atol=1e-5)


def test_one_scene_leaves_no_trace_in_the_next() -> None:
    model = small_model()
    model.reconstruct(small_views(seed=1))
    after = model.reconstruct(small_views(seed=2)).render(small_views(seed=2)).rgb
    assert torch.equal(
        after, small_model().reconstruct(small_views(seed=2)).render(small_views(seed=2)).rgb
    )


@pytest.mark.parametrize(
    "elastic", [ElasticConfig("mas"), ElasticConfig(step_decay=0.5, target="novelty")], ids=str
)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_recomputing_activations_changes_neither_output_nor_gradient(
    schedule: str, elastic: ElasticConfig
) -> None:
    grads = []
    for checkpointing in (False, True):
        model = small_model(schedule=schedule, elastic=elastic).train()
        parallelize(model.encoder, checkpointing=checkpointing)
        views = normal()
        loss = model(views[:4], views[4:]).rgb.square().sum()
        loss.backward()
        grads.append((loss.detach(), [p.grad for p in model.parameters()]))
    assert torch.equal(grads[0][0], grads[1][0])
    for a, b in zip(grads[0][1], grads[1][1], strict=True):
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_schedules_agree_when_everything_is_one_chunk_and_one_layer_reads_last() -> None:
    """With a single chunk 'all then apply' and 'causal' are the same computation."""
    views = normal(2)
    outputs = []
    for schedule in SCHEDULES:
        encoder = small_model(schedule=schedule).encoder
        outputs.append(encoder.query(push(encoder, views, [2]), views.without_rgb()))
    assert torch.equal(*outputs)


def test_causal_memory_does_not_depend_on_later_views_and_stays_small() -> None:
    encoder, views = small_model(schedule="causal").encoder, normal(9)
    memory = encoder.empty(1)
    for i in range(9):
        memory = encoder.update(memory, views[i])
        assert memory.pending is None or len(memory.pending) < 2
    first = encoder.update(encoder.empty(1), views[:4])
    again = encoder.update(encoder.empty(1), views[:4])
    encoder.update(again, views[4:])
    for a, b in zip(first.layers, again.layers, strict=True):
        assert torch.equal(a.weights, b.weights)


def test_targets_do_not_see_each_other() -> None:
    model, views = small_model(), normal()
    memory = push(model.encoder, views[:3], [3])
    together = model.decode(memory, views[3:].without_rgb(), None).rgb
    alone = torch.cat(
        [model.decode(memory, views[i].without_rgb(), None).rgb for i in (3, 4)], dim=1
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_rendering_only_reads() -> None:
    model, views = small_model(), normal()
    memory = push(model.encoder, views, [5])
    before = [s.weights.clone() for s in memory.layers]
    model.decode(memory, views.without_rgb(), None)
    for state, weights in zip(memory.layers, before, strict=True):
        assert torch.equal(state.weights, weights)


def test_a_finished_memory_takes_no_further_views() -> None:
    encoder, views = small_model().encoder, normal()
    with pytest.raises(InputError, match="finished"):
        encoder.update(push(encoder, views, [5]), views)


def test_requests_cannot_be_written() -> None:
    encoder = small_model().encoder
    with pytest.raises(InputError, match="without rgb"):
        encoder.update(encoder.empty(1), normal().without_rgb())


@pytest.mark.parametrize("layout", CHANNELS)
def test_channels_stand_where_the_layout_says(layout: str) -> None:
    config = EncoderConfig(BlockConfig(dim=32, attention_head_dim=16), 1, 8, layout)  # pyright: ignore[reportArgumentType]
    encoder, views = Encoder(config), normal(2)
    seen = []
    encoder.embed.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    encoder.tokenize(views)
    pixels = unpatchify(seen[0], views.hw, 8)
    origin, direction = pixel_rays(views)
    assert views.rgb is not None
    rgb_at = {"fsm13": 9, "paper10": 0, "lact12": 9, "lrm10": 6}[layout]
    direction_at = 3
    assert pixels.shape[2] == CHANNELS[layout]
    torch.testing.assert_close(pixels[:, :, rgb_at : rgb_at + 3], views.rgb * 2 - 1)
    torch.testing.assert_close(pixels[:, :, direction_at : direction_at + 3], direction)
    if layout == "lrm10":  # on the ray, and where it comes nearest to the origin
        nearest = pixels[:, :, :3]
        torch.testing.assert_close(
            (nearest * direction).sum(2), torch.zeros(1, 2, *views.hw), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            torch.linalg.cross(nearest - origin, direction, dim=2),
            torch.zeros_like(origin),
            rtol=0,
            atol=1e-5,
        )
    elif layout != "paper10":
        torch.testing.assert_close(pixels[:, :, :3], origin)
    if layout != "lact12":
        torch.testing.assert_close(
            pixels[:, :, -1], views.time[..., None, None].expand(1, 2, *views.hw)
        )


def test_a_size_the_patch_does_not_divide_is_named() -> None:
    views = dataclasses.replace(normal(), hw=(12, 24), rgb=None)
    with pytest.raises(InputError, match="12x24 is not a multiple of the patch size 8"):
        small_model().encoder.tokenize(views)


def test_causal_schedule_needs_a_chunk_size() -> None:
    with pytest.raises(InputError, match="chunk_tokens > 0"):
        EncoderConfig(schedule="causal", chunk_tokens=0)


def test_base_preset_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = FSM(load_preset("base").model)
    assert parameter_count(model.encoder.blocks[0]) == 12_981_635
    assert round(parameter_count(model) / 1e6, 2) == 312.35


def test_ablation_preset_is_half_as_deep() -> None:
    with torch.device("meta"):
        model = FSM(load_preset("ablation").model)
    assert round(parameter_count(model) / 1e6, 1) == 156.6
    assert isinstance(model.config, ModelConfig)


def test_autocast_runs_the_products_in_bfloat16_and_stays_close() -> None:
    model, views = small_model(), normal()
    exact = model(views[:4], views[4:]).rgb
    kinds: set[torch.dtype] = set()
    model.encoder.blocks[0].mlp.up.register_forward_hook(lambda _, __, out: kinds.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(views[:4], views[4:]).rgb
    assert kinds == {torch.bfloat16}
    assert (exact - mixed).abs().max() < 0.05


COMPARE_COMPILED = """
import torch
from fsm.train.parallelize import parallelize
from fsm.views import SceneFrame
from tests.small import small_model, small_views

torch.set_num_threads(1)
# One chunk of 24 tokens, more than the fast weights are wide:
# otherwise Newton-Schulz amplifies any rounding.
encoder, views = small_model(dim=16, chunk_tokens=24).encoder, small_views(4).batched()
views = SceneFrame.fit(views).to_model(views)
results = []
for compiled in (False, True):
    parallelize(encoder, compile=compiled)
    encoder.zero_grad()
    memory = encoder.finish(encoder.update(encoder.empty(1), views))
    out = encoder.query(memory, views.without_rgb())
    out.square().mean().backward()
    grads = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    results.append((out.detach(), grads))
(eager, expected), (fast, gradients) = results
assert torch._dynamo.utils.counters["frames"]["ok"] >= 3, "attend, write and read were not compiled"
assert not torch._dynamo.utils.counters["graph_break"], torch._dynamo.utils.counters["graph_break"]
torch.testing.assert_close(fast, eager, rtol=1e-5, atol=1e-5)
scale = max(g.abs().max().item() for g in expected.values())
assert expected.keys() == gradients.keys()
for name in expected:
    torch.testing.assert_close(gradients[name], expected[name], rtol=1e-5, atol=1e-5 * scale)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_blocks_equal_eager_ones_in_values_and_gradients() -> None:
    # In a process of its own: the compiler cannot see through the type checks that tests switch on.
    result = subprocess.run(
        [sys.executable, "-c", COMPARE_COMPILED], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_pull_is_recorded_inside_the_block_and_not_after_it(schedule: str) -> None:
    encoder = small_model(schedule=schedule).encoder
    with record_pull_ratio(encoder) as ratios:
        push(encoder, normal(), [5])
    assert [ratio.shape for ratio in ratios] == [(1,)] * 2 * 3  # layers, chunks
    push(encoder, normal(), [5])
    assert len(ratios) == 2 * 3


def test_chunks_can_be_given_with_the_views() -> None:
    """As a model of that configuration would write them, in values and gradients."""
    model, views = small_model().train(), normal()
    config = dataclasses.replace(model.config.encoder, chunk_tokens=0)
    twin = FSM(dataclasses.replace(model.config, encoder=config)).train()
    twin.load_state_dict(model.state_dict())
    model(views[:4], views[4:], 0).rgb.square().sum().backward()
    twin(views[:4], views[4:]).rgb.square().sum().backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)
    assert not torch.equal(model(views[:4], views[4:], 0).rgb, model(views[:4], views[4:]).rgb)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_views_that_wait_are_written_in_the_chunks_given_with_them(schedule: str) -> None:
    encoder, views = small_model(schedule=schedule).encoder, normal()
    config = dataclasses.replace(encoder.config, chunk_tokens=18)
    twin = Encoder(config).eval()
    twin.load_state_dict(encoder.state_dict())
    memory = encoder.update(encoder.update(encoder.empty(1), views[:1], 18), views[1:], 18)
    expected = push(twin, views, [5])
    for a, b in zip(encoder.finish(memory).layers, expected.layers, strict=True):
        assert a.step == b.step == 2  # three views, and two
        assert torch.equal(a.weights, b.weights)


def test_chunks_no_schedule_can_write_are_refused() -> None:
    encoder = small_model(schedule="causal").encoder
    with pytest.raises(InputError, match="the causal schedule needs chunk_tokens > 0"):
        encoder.update(encoder.empty(1), normal(), 0)
    with pytest.raises(InputError, match="chunk_tokens is -1, must be at least 0"):
        encoder.update(encoder.empty(1), normal(), -1)

"""Training samples: a pure function of seed, step and index; inputs and targets never meet."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from fsm.datasets.open import open_clip
from fsm.errors import InputError
from fsm.rays import pixel_rays, project
from fsm.shards import WHOLE, Shard
from fsm.train.config import DataConfig, SourceConfig
from fsm.train.data import Batch, SampleStream
from fsm.train.sources import Sample, WorldSource, sample_plan
from fsm.views import Views
from tests.datasets.media import read_counter, write_fsm_clip
from tests.small import small_views

WORLDS = DataConfig(hw=(16, 24), batch=2, inputs=(2, 3), targets=2, window=(6, 9))


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 20 frames of 64x128 whose frame i shows the number i."""
    return write_fsm_clip(tmp_path_factory.mktemp("clip"))


def _clips(path: Path, **options) -> DataConfig:
    values = {
        "hw": (64, 128),
        "batch": 2,
        "inputs": (3,),
        "targets": 2,
        "window": (6, 12),
    } | options
    return DataConfig(sources=(SourceConfig(str(path)),), **values)


def stream_of(config: DataConfig, seed: int, part: Shard = WHOLE) -> SampleStream:
    """One stage without end."""
    return SampleStream([(0, config)], seed, part=part)


def _equal(a: Batch, b: Batch) -> bool:
    same = torch.equal(a.depth.nan_to_num(-1.0), b.depth.nan_to_num(-1.0))
    for x, y in ((a.inputs, b.inputs), (a.targets, b.targets)):
        assert x.rgb is not None
        assert y.rgb is not None
        if x.rgb.shape != y.rgb.shape:
            return False
        same &= all(
            torch.equal(getattr(x, n), getattr(y, n)) for n in ("c2w", "intrinsics", "time", "rgb")
        )
    return same


def test_a_sample_depends_on_seed_step_and_index_alone() -> None:
    config = dataclasses.replace(WORLDS, mirror=True)
    stream = stream_of(config, seed=1)
    first = stream.batch(7)
    stream.batch(3)
    torch.manual_seed(99)
    assert _equal(first, stream.batch(7))
    assert _equal(first, stream_of(config, seed=1).batch(7))
    for other in (stream.batch(8), stream_of(config, seed=2).batch(7)):
        assert not _equal(first, other)
    assert first.inputs.rgb is not None
    assert not torch.equal(first.inputs.rgb[0], first.inputs.rgb[1])


def _one(batch: Batch, i: int) -> Batch:
    inputs, targets = (Views.stack([v.samples()[i]]) for v in (batch.inputs, batch.targets))
    known = (batch.depth, batch.input_depth, batch.input_moving)
    depth, input_depth, moving = (t[i : i + 1] for t in known)
    return Batch(inputs, targets, depth, input_depth, moving)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_out_the_same_samples(count: int) -> None:
    config = dataclasses.replace(WORLDS, batch=4)
    parts = [stream_of(config, seed=1, part=Shard(i, count)) for i in range(count)]
    lengths = set()
    for step in range(6):
        whole, each = stream_of(config, seed=1).batch(step), [p.batch(step) for p in parts]
        for i in range(4):
            batch, place = each[i % count], i // count
            assert _equal(_one(batch, place), _one(whole, i))
        lengths.add(len(whole.inputs))
    assert lengths == {2, 3}
    with pytest.raises(
        InputError, match=r"data\.batch is 4, which 3 processes cannot share evenly"
    ):
        stream_of(config, seed=1, part=Shard(0, 3))


@pytest.mark.parametrize("even", [0.0, 1.0])
def test_inputs_and_targets_are_disjoint_and_complete_at_every_size(even: float) -> None:
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        n_inputs, targets = 1 + seed % 5, 1 + seed % 3
        frames = n_inputs + targets + seed % 4
        config = DataConfig(targets=targets, even=even)
        inputs, asked = sample_plan(frames, n_inputs, config, generator)
        assert len(set(inputs)) == n_inputs
        assert len(set(asked)) == targets
        assert not set(inputs) & set(asked)
        assert inputs == sorted(inputs)
        assert set(inputs) | set(asked) <= set(range(frames))
        if even and n_inputs > 1:
            assert (inputs[0], inputs[-1]) == (0, frames - 1)
            gaps = torch.tensor(inputs).diff()
            assert int(gaps.max() - gaps.min()) <= 1


def test_world_samples_know_their_depth() -> None:
    batch = stream_of(WORLDS, seed=3).batch(0)
    assert batch.inputs.c2w.shape[:2] == (2, len(batch.inputs))
    assert batch.targets.hw == (16, 24)
    assert bool(torch.isfinite(batch.depth).all())
    assert float(batch.depth.min()) > 0
    for b in range(2):
        assert not set(batch.inputs.time[b].tolist()) & set(batch.targets.time[b].tolist())


def test_a_static_sample_has_one_moment_and_nothing_moves() -> None:
    data = dataclasses.replace(WORLDS, inputs=(4,), static=1.0, still=0.0)
    batch = stream_of(data, seed=3).batch(0)
    assert batch.inputs.one_moment
    assert torch.equal(batch.targets.time[:, :1], batch.inputs.time[:, :1])
    assert not bool(batch.input_moving.any())
    centres = batch.inputs.c2w[0, :, :3, 3]
    assert float((centres - centres[0]).norm(dim=-1)[1:].min()) > 0.0


def test_a_rig_has_cameras_that_stand_still_and_share_moments() -> None:
    data = dataclasses.replace(WORLDS, inputs=(8,), rigs=1.0, still=0.0)
    batch = stream_of(data, seed=3).batch(0)
    for b in range(2):
        times, c2w = batch.inputs.time[b], batch.inputs.c2w[b]
        assert torch.equal(times[:4], times[:1].expand(4))
        assert torch.equal(times[4:], times[4:5].expand(4))
        assert torch.equal(c2w[:4], c2w[4:])
        assert len(c2w[:4, 0, 3].unique()) == 4
        assert set(batch.targets.time[b].tolist()) <= set(times.tolist())


def test_cameras_on_an_arc_are_evenly_apart_and_look_at_the_middle() -> None:
    data = dataclasses.replace(WORLDS, inputs=(6,), static=1.0, still=0.0, around=1.0)
    batch = stream_of(data, seed=3).batch(0)
    assert batch.inputs.one_moment
    for c2w in batch.inputs.c2w:
        eyes, axes = c2w[:, :3, 3], c2w[:, :3, 2]
        radius = eyes[:, [0, 2]].norm(dim=-1)
        torch.testing.assert_close(radius, radius[:1].expand(6))
        level = axes[:, [0, 2]] / axes[:, [0, 2]].norm(dim=-1, keepdim=True)
        torch.testing.assert_close(level, -eyes[:, [0, 2]] / radius[:, None])
        apart = (level * level.roll(1, 0)).sum(-1)[1:].acos()
        torch.testing.assert_close(apart, apart[:1].expand(5), atol=2e-3, rtol=0.0)
        assert 0.02 < float(apart[0]) < 0.61


def test_half_of_the_rigs_on_an_arc_have_one_frame_a_camera() -> None:
    data = dataclasses.replace(WORLDS, inputs=(8,), rigs=1.0, still=0.0, around=1.0)
    stream = stream_of(data, seed=3)
    cameras = set()
    for step in range(6):
        for b in range(2):
            inputs = stream.batch(step).inputs
            found = len(inputs.c2w[b, :, :3, 3].unique(dim=0)), len(inputs.time[b].unique())
            assert found in {(8, 8), (4, 2)}
            cameras.add(found)
    assert len(cameras) == 2


def test_inputs_know_what_moves() -> None:
    data = dataclasses.replace(WORLDS, hw=(32, 32), window=(60, 60), inputs=(4,))
    stream = stream_of(data, seed=3)
    shares = [float(stream.batch(step).input_moving.mean()) for step in range(6)]
    assert 0.0 < sum(shares) / 6 < 0.6
    moved = stream_of(dataclasses.replace(data, mirror=True), seed=3).batch(0).input_moving
    assert float(moved.mean()) == pytest.approx(shares[0])


def test_shares_of_more_than_everything_are_refused() -> None:
    with pytest.raises(InputError, match=r"at most 1 together"):
        DataConfig(static=0.6, rigs=0.6)


def test_clip_samples_are_frames_of_the_clip(clip_file: Path) -> None:
    stream = stream_of(_clips(clip_file), seed=0)
    clip = open_clip(clip_file)
    for step in range(5):
        batch = stream.batch(step)
        assert bool(torch.isnan(batch.depth).all())
        for b in range(2):
            numbers = []
            for views in (batch.inputs, batch.targets):
                assert views.rgb is not None
                index = (views.time[b] * 30).round().long()
                assert [read_counter((f * 255).numpy()) for f in views.rgb[b]] == index.tolist()
                assert torch.equal(views.c2w[b], clip.cameras.c2w[index])
                assert torch.equal(views.intrinsics[b], clip.cameras.intrinsics[index])
                numbers.append(index.tolist())
            assert not set(numbers[0]) & set(numbers[1])
            assert max(map(max, numbers)) - min(map(min, numbers)) < 12


def test_a_random_zoom_cuts_pixels_and_intrinsics_together(clip_file: Path) -> None:
    """Zoomed samples agree with the full picture wherever both look: the number burnt into it stays
    where it was.
    """
    plain = stream_of(_clips(clip_file, hw=(32, 64)), seed=0)
    zoomed = stream_of(_clips(clip_file, hw=(32, 64), zoom=1.5), seed=0)
    ratios = []
    for step in range(6):
        a, b = plain.batch(step), zoomed.batch(step)
        assert b.inputs.hw == (32, 64)
        assert torch.equal(a.inputs.time, b.inputs.time)
        assert torch.equal(a.inputs.c2w, b.inputs.c2w)
        ratio = b.inputs.intrinsics[..., :2] / a.inputs.intrinsics[..., :2]
        ratios += ratio[:, 0, 0].tolist()
        assert a.inputs.rgb is not None
        assert b.inputs.rgb is not None
        # Look up the plain picture along the zoomed picture's rays.
        _, direction = pixel_rays(b.inputs)
        points = (b.inputs.c2w[..., :3, 3, None, None] + direction).flatten(3).transpose(-1, -2)
        xy, _ = project(points, a.inputs.c2w, a.inputs.intrinsics)
        grid = (xy / xy.new_tensor([64.0, 32.0]) * 2 - 1).view(-1, 32, 64, 2)
        seen = torch.nn.functional.grid_sample(
            a.inputs.rgb.flatten(0, 1), grid, align_corners=False
        )
        inside = (grid.abs() < 0.95).all(-1, keepdim=True).permute(0, 3, 1, 2)
        assert (seen - b.inputs.rgb.flatten(0, 1)).abs()[inside.expand_as(seen)].mean() < 0.03
    assert min(ratios) >= 1.0
    assert max(ratios) <= 1.5
    assert max(ratios) - min(ratios) > 0.1


def test_sources_are_sampled_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = (5.0, 3.0, 2.0)
    config = dataclasses.replace(
        WORLDS, sources=tuple(SourceConfig("world", w) for w in weights), batch=3
    )
    stream, taken = stream_of(config, seed=0), [0, 0, 0]

    def sample(
        self: WorldSource, data: DataConfig, n_inputs: int, generators: list[torch.Generator]
    ) -> list[Sample]:
        taken[stream.sources.index(self)] += len(generators)
        views = small_views(1, hw=(16, 24))
        nowhere = torch.zeros(1, 1, 16, 24)
        return [Sample(views, views, nowhere, nowhere, nowhere)] * len(generators)

    monkeypatch.setattr(WorldSource, "sample", sample)
    for step in range(400):
        stream.batch(step)
    assert sum(taken) == 1200
    chi_square = sum((d - 120 * w) ** 2 / (120 * w) for d, w in zip(taken, weights, strict=True))
    assert chi_square < 13.8  # 2 degrees: 1 in 1,000


@pytest.mark.parametrize("still", [1.0, 0.5])
def test_samples_taken_together_are_those_taken_alone(still: float) -> None:
    config = dataclasses.replace(WORLDS, batch=3, still=still)
    source = WorldSource("cpu")

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]

    together = source.sample(config, 3, generators())
    for one, generator in zip(together, generators(), strict=True):
        (alone,) = source.sample(config, 3, [generator])
        assert torch.equal(one.depth, alone.depth)
        for a, b in ((one.inputs, alone.inputs), (one.targets, alone.targets)):
            assert all(
                torch.equal(getattr(a, n), getattr(b, n))
                for n in ("c2w", "intrinsics", "time", "rgb")
            )


@pytest.mark.parametrize(("still", "expected"), [(1.0, 0.55), (0.4, 0.82), (0.0, 1.0)])
def test_cameras_move_in_as_many_worlds_as_asked_for(still: float, expected: float) -> None:
    generators = [torch.Generator().manual_seed(s) for s in range(200)]
    samples = WorldSource("cpu").sample(
        dataclasses.replace(WORLDS, hw=(2, 2), still=still), 3, generators
    )
    centres = torch.stack([s.inputs.c2w[:, :3, 3] for s in samples])
    extents = (centres - centres.mean(1, keepdim=True)).norm(dim=-1).amax(1)
    # A hand that only shakes stays within two centimetres; 0.1 are three standard deviations of 200
    # draws.
    assert abs(float((extents > 0.02).float().mean()) - expected) < 0.1


def test_worlds_of_a_step_are_drawn_at_once(
    clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsm.datasets.world.world import World

    sampled, genuine = [], World.sample

    def sample(seeds, device="cpu") -> World:
        sampled.append(len(seeds))
        return genuine(seeds, device)

    monkeypatch.setattr(World, "sample", staticmethod(sample))
    sources = (SourceConfig("world"), SourceConfig(str(clip_file)))
    config = dataclasses.replace(WORLDS, sources=sources, batch=6)
    batch = stream_of(config, seed=0).batch(0)
    assert (len(batch.depth), len(sampled)) == (6, 1)
    assert 1 < sampled[0] < 6


def test_bad_sources_are_named_before_anything_is_drawn(clip_file: Path, tmp_path: Path) -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="weight"):
            stream_of(dataclasses.replace(WORLDS, sources=(SourceConfig("world", weight),)), seed=0)
    with pytest.raises(InputError, match="nowhere"):
        stream_of(_clips(tmp_path / "nowhere.json"), seed=0)
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps(["gone.json"]))
    with pytest.raises(InputError, match=r"list\.json: entry 0: 'gone\.json' does not exist"):
        stream_of(_clips(listed), seed=0)
    with pytest.raises(InputError, match="has 20 frames; a training sample needs 31"):
        stream_of(_clips(clip_file, inputs=(29,)), seed=0).batch(0)


def test_depth_is_mirrored_with_the_pixels() -> None:
    plain, mirror = (
        stream_of(dataclasses.replace(WORLDS, mirror=m), seed=5) for m in (False, True)
    )
    flipped = 0
    for step in range(4):
        a, b = plain.batch(step), mirror.batch(step)
        assert a.targets.rgb is not None
        assert b.targets.rgb is not None
        for i in range(2):
            is_flipped = not torch.equal(a.targets.rgb[i], b.targets.rgb[i])
            flipped += is_flipped
            expected = a.depth[i].flip(-1) if is_flipped else a.depth[i]
            assert torch.equal(b.depth[i], expected)
    assert 0 < flipped < 8

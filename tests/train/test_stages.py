"""Curricula and random chunks: every step sees what its stage says, resumed or not, and clips are
decoded once for all.
"""

import dataclasses
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from fsm.config import from_dict, to_dict
from fsm.datasets.base import Clip, MemoryClip
from fsm.datasets.open import open_clip
from fsm.datasets.readers.video import VideoClip
from fsm.errors import InputError
from fsm.model import FSM
from fsm.train.config import DataConfig, SourceConfig, TrainConfig, load_preset
from fsm.train.data import Batch, Prefetcher, SampleStream
from fsm.train.loop import train
from fsm.views import Views
from tests.datasets.media import read_counter, write_fsm_clip
from tests.small import small_views
from tests.train.small_runs import CONFIG, DATA, MODEL, read_log, stage
from tests.train.test_resume import assert_same_run

STAGES = (
    stage(2, hw=(48, 48), inputs=(4,), chunks=(2, 4), zoom=1.25),
    stage(4, batch=2, targets=1, chunks=(1,), window=(9, 9)),
)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 20 frames of 64x128 whose frame i shows the number i."""
    return write_fsm_clip(tmp_path_factory.mktemp("clip"))


def _shape(batch: Batch) -> tuple:
    return (
        tuple(batch.inputs.hw),
        *batch.inputs.c2w.shape[:2],
        batch.targets.c2w.shape[1],
        batch.chunks,
    )


def test_every_step_holds_what_its_stage_says_and_what_earlier_ones_left() -> None:
    config = dataclasses.replace(CONFIG, stages=STAGES)
    stages = config.data_stages()
    assert [begins for begins, _ in stages] == [0, 2, 4]
    stream = SampleStream(stages, seed=1)
    shapes = [_shape(stream.batch(step)) for step in range(6)]
    for step, (hw, batch, inputs, targets, chunks) in enumerate(shapes):
        assert hw == ((32, 32) if step < 2 else (48, 48))
        assert batch == (1 if step < 4 else 2)
        assert inputs in ((2, 3) if step < 2 else (4,))
        assert targets == (2 if step < 4 else 1)
        assert chunks in ((None,) if step < 2 else (2, 4) if step < 4 else (1,))
    assert stages[2][1] == dataclasses.replace(
        DATA, hw=(48, 48), inputs=(4,), zoom=1.25, batch=2, targets=1, chunks=(1,), window=(9, 9)
    )


def test_a_stage_from_step_0_takes_the_place_of_the_first() -> None:
    config = dataclasses.replace(CONFIG, stages=(stage(0, hw=(16, 16)), stage(3, hw=(64, 64))))
    assert [(begins, data.hw) for begins, data in config.data_stages()] == [
        (0, (16, 16)),
        (3, (64, 64)),
    ]


def test_the_published_curriculum_is_what_base_says() -> None:
    """Table 5 of the paper, at the batches of one GPU."""
    held = [
        (begins, data.hw, data.batch, data.inputs, data.chunks, data.targets, data.window)
        for begins, data in load_preset("base").data_stages()
    ]
    lengths = (12, 16, 24, 32, 48, 64)
    assert held == [
        (0, (128, 128), 16, (32,), (4,), 32, (64, 128)),
        (80_000, (256, 256), 4, (32,), (4,), 32, (64, 256)),
        (100_000, (256, 256), 4, lengths, (), 32, (64, 256)),
    ]


def test_stages_are_plain_values_and_back() -> None:
    config = dataclasses.replace(CONFIG, stages=STAGES)
    assert from_dict(TrainConfig, to_dict(config), "here") == config
    written = {"stages": [{"from_step": 5, "hw": [64, 64]}, {"from_step": 9, "chunks": []}]}
    stages = from_dict(TrainConfig, written, "here").data_stages()
    assert [(data.hw, data.chunks) for _, data in stages] == [
        ((128, 128), ()),
        ((64, 64), ()),
        ((64, 64), ()),
    ]


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([{"hw": [8, 8]}], "lacks the required key 'from_step'"),
        (
            [{"from_step": 3}, {"from_step": 3}],
            r"stages begin at steps \[3, 3\]; give increasing ones",
        ),
        ([{"from_step": -1}], r"stages begin at steps \[-1\]"),
        (
            [{"from_step": 3, "hw": [20, 16]}],
            r"data\.hw is \(20, 16\) from step 3, not a multiple of the patch size 8",
        ),
        (
            [{"from_step": 3, "window": [9, 4]}],
            r"the stage from step 3: train config: data\.window is \(9, 4\)",
        ),
        ([{"from_step": 3, "chunks": [0]}], r"the stage from step 3: .* data\.chunks is \[0\]"),
        ([{"from_step": 3, "sources": []}], "unknown key 'sources'"),
    ],
)
def test_stages_no_run_can_use_are_refused(stages: list, says: str) -> None:
    with pytest.raises(InputError, match=says):
        from_dict(TrainConfig, {"stages": stages}, "here")


def test_resuming_in_any_stage_changes_no_bit(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, stages=STAGES)
    train(config, tmp_path / "whole")
    for part in (1, 2, 2, 9):
        torch.manual_seed(part)
        train(config, tmp_path / "parts", stop_after=part)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    log = read_log(tmp_path / "parts")
    assert [e["step"] for e in log] == [1, 2, 3, 4, 5, 6]
    assert [e["chunks"] for e in log[4:]] == [1, 1]
    assert {e["inputs"] for e in log[2:4]} == {4}


def test_chunks_are_drawn_evenly_and_hold_whole_views() -> None:
    data = dataclasses.replace(DATA, hw=(16, 16), inputs=(5,), chunks=(1, 2, 3, 9), window=(7, 7))
    stream = SampleStream([(0, data)], seed=0)
    batches = [stream.batch(step) for step in range(24)]
    assert {(b.chunks, b.chunk_tokens(8)) for b in batches} == {
        (1, 5 * 4),
        (2, 3 * 4),
        (3, 2 * 4),
        (9, 1 * 4),
    }
    assert min(Counter(b.chunks for b in batches).values()) >= 2  # of 6 expected


def test_drawing_chunks_changes_no_sample() -> None:
    plain, chunked = (
        SampleStream([(0, dataclasses.replace(DATA, chunks=c))], seed=4) for c in ((), (1, 3))
    )
    for step in range(3):
        a, b = plain.batch(step), chunked.batch(step)
        assert torch.equal(a.inputs.time, b.inputs.time)
        assert (a.chunks, a.chunk_tokens(8)) == (None, None)


@pytest.mark.parametrize("schedule", ["update-all-then-apply", "causal"])
def test_the_inputs_are_written_in_the_chunks_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """Both schedules train with random chunks: as many writes per layer as chunks, each of them
    learning.
    """
    model = dataclasses.replace(
        MODEL, encoder=dataclasses.replace(MODEL.encoder, schedule=schedule)
    )
    data = dataclasses.replace(DATA, inputs=(4,), chunks=(1, 2, 4))
    config = dataclasses.replace(CONFIG, model=model, data=data)
    written: list[int] = []
    genuine = FSM._read

    def read(self: FSM, inputs: Views, chunk_tokens: int | None):
        written.append(-(-len(inputs) // self.encoder.views_per_chunk(inputs, chunk_tokens)))
        assert self.encoder.config.schedule == schedule
        return genuine(self, inputs, chunk_tokens)

    monkeypatch.setattr(FSM, "_read", read)
    trained = train(config, tmp_path)
    stream = SampleStream(config.data_stages(), config.seed)
    assert written == [stream.batch(step).chunks for step in range(6)]
    assert len(set(written)) > 1
    log = read_log(tmp_path)
    assert [e["chunks"] for e in log] == written
    assert all(e["grad_norm"] > 0 for e in log)
    assert log[-1]["skipped"] == 0
    assert trained.config == model  # a checkpoint keeps the model's own chunks


def _clips(path: Path, **options) -> DataConfig:
    values = {
        "hw": (64, 128),
        "batch": 2,
        "inputs": (3,),
        "targets": 2,
        "window": (6, 12),
    } | options
    return DataConfig(sources=(SourceConfig(str(path)),), **values)


def test_clips_are_decoded_once_for_all_sizes(
    clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, genuine = [], Clip.cached

    def cached(self: Clip, hw: tuple[int, int] | None = None):
        decoded.append((self.id, hw))
        return genuine(self, hw)

    monkeypatch.setattr(Clip, "cached", cached)
    data = _clips(clip_file, hw=(16, 32))
    stages = [
        (0, data),
        (2, dataclasses.replace(data, hw=(64, 128))),
        (4, dataclasses.replace(data, hw=(32, 32))),
    ]
    stream, clip = SampleStream(stages, seed=0), open_clip(clip_file)
    for step in (0, 2, 4, 5, 1):
        batch = stream.batch(step)
        assert batch.inputs.rgb is not None
        for b in range(2):
            index = (batch.inputs.time[b] * 30).round().long()
            expected = clip.views(index, hw=batch.inputs.hw)
            assert expected.rgb is not None
            torch.testing.assert_close(batch.inputs.intrinsics[b], expected.intrinsics)
            torch.testing.assert_close(
                batch.inputs.rgb[b], expected.rgb, atol=0.5 / 255 + 1e-6, rtol=0
            )
    assert decoded == [(clip.id, (64, 128))]


def test_a_zoom_looks_as_close_as_its_own_stage_says(clip_file: Path) -> None:
    """However large the kept picture is: the field of view of a window is between full and full /
    zoom.
    """
    data = _clips(clip_file, hw=(16, 32), zoom=1.5)
    stream = SampleStream(
        [(0, data), (10, dataclasses.replace(data, hw=(64, 128), zoom=1.0))], seed=0
    )
    alone = SampleStream([(0, data)], seed=0)
    full = open_clip(clip_file).cameras.resized((16, 32)).intrinsics[0, 0]
    for step in range(8):
        a, b = stream.batch(step), alone.batch(step)
        assert a.inputs.hw == (16, 32)
        closer = a.inputs.intrinsics[..., 0] / full
        assert float(closer.min()) >= 1.0 - 1e-6
        assert float(closer.max()) <= 1.5 * 1.02  # windows are whole pixels
        # Whole pixels of two sizes: the windows are the same to the size of one of them.
        torch.testing.assert_close(closer, b.inputs.intrinsics[..., 0] / full, rtol=0.05, atol=0.0)


def test_clips_that_do_not_fit_are_read_anew_with_the_same_bits(
    clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _clips(clip_file, hw=(32, 48), zoom=1.25, mirror=True)
    kept = SampleStream([(0, data)], seed=2)
    batches = [kept.batch(step) for step in range(3)]
    monkeypatch.setattr(Clip, "cached", None)
    asked, genuine = [], VideoClip.observations

    def observations(self: VideoClip, indices: list[int]):
        asked.append(len(indices))
        return genuine(self, indices)

    monkeypatch.setattr(VideoClip, "observations", observations)
    bounded = SampleStream([(0, dataclasses.replace(data, cache_gib=1e-5))], seed=2)
    for step, batch in enumerate(batches):
        again = bounded.batch(step)
        for a, b in ((batch.inputs, again.inputs), (batch.targets, again.targets)):
            assert all(
                torch.equal(getattr(a, n), getattr(b, n))
                for n in ("c2w", "intrinsics", "time", "rgb")
            )
    assert set(asked) == {5}  # the frames of the sample and no others


def test_memory_for_frames_is_shared_and_bounded(tmp_path: Path) -> None:
    """Of two sources of 20 frames of 64 x 128, the memory for one and a half keeps one."""
    sources = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sources.append(SourceConfig(str(write_fsm_clip(tmp_path / name))))
    size = 20 * 64 * 128 * 4
    data = dataclasses.replace(
        _clips(tmp_path), sources=tuple(sources), cache_gib=1.5 * size / 2**30
    )
    stream = SampleStream([(0, data)], seed=0)
    numbers = []
    for step in range(6):
        batch = stream.batch(step)
        assert batch.inputs.rgb is not None
        numbers += [read_counter((f * 255).numpy()) for f in batch.inputs.rgb.flatten(0, 1)]
    assert set(numbers) <= set(range(20))
    (cache,) = {s.cache for s in stream.sources}  # pyright: ignore[reportAttributeAccessIssue]
    assert len(cache.kept) == 1
    assert all(isinstance(c, MemoryClip) and c.pixels.nbytes <= size for c in cache.kept.values())


def test_batches_drawn_ahead_are_the_same_in_any_order(clip_file: Path) -> None:
    data = _clips(clip_file, hw=(16, 32), mirror=True)
    plain, ahead = SampleStream([(0, data)], seed=0), Prefetcher(SampleStream([(0, data)], seed=0))
    for step in (0, 1, 2, 7, 8, 3):
        a, b = plain.batch(step), ahead.batch(step)
        assert torch.equal(a.inputs.time, b.inputs.time)
        assert a.targets.rgb is not None
        assert b.targets.rgb is not None
        assert torch.equal(a.targets.rgb, b.targets.rgb)


def test_the_next_batch_is_drawn_while_the_caller_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, second, views = [], threading.Event(), small_views(1).batched()

    def batch(self: SampleStream, step: int) -> Batch:
        drawn.append((step, threading.current_thread() is threading.main_thread()))
        if step == 1:
            second.set()
        if step == 2:
            raise InputError("of step 2")
        nowhere = torch.zeros(1, 1, 1, *views.hw)
        return Batch(views, views, nowhere, nowhere, nowhere, chunks=1 + step)

    monkeypatch.setattr(SampleStream, "batch", batch)
    ahead = Prefetcher(SampleStream([(0, DATA)], seed=0))
    assert ahead.batch(0).chunks == 1
    assert second.wait(60)  # nobody has asked for step 1 yet
    assert ahead.batch(1).chunks == 2
    with pytest.raises(InputError, match="of step 2"):
        ahead.batch(2)
    assert drawn == [(0, True), (1, False), (2, False)]


def test_a_run_with_batches_drawn_ahead_is_the_same_to_the_bit(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG, optim=dataclasses.replace(CONFIG.optim, steps=3), stages=STAGES[:1]
    )
    for ahead in (False, True):
        train(dataclasses.replace(config, ahead=ahead), tmp_path / str(ahead))
    assert read_log(tmp_path / "False") == read_log(tmp_path / "True")
    one, other = (
        (tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("False", "True")
    )
    assert one == other

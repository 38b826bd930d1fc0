"""What a recipe costs: which steps cost the same, and how many chunks samples have on average."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.recipe_cost import mean_inputs_and_chunks, sample_flops, spans
from fsm.train.config import load_preset
from fsm.train.throughput import FlopCount
from tests.train.small_runs import CONFIG, changed, stage


def test_stretches_end_where_a_stage_begins_lpips_sets_in_or_training_ends() -> None:
    config = load_preset("small")
    found = [(first, last, data.hw) for first, last, data in spans(config)]
    assert found == [
        (0, 2000, (128, 128)),
        (2000, 4200, (64, 64)),
        (4200, 6000, (128, 128)),
        (6000, 6600, (128, 128)),
        (6600, 7600, (256, 256)),
    ]
    short = dataclasses.replace(config, optim=dataclasses.replace(config.optim, steps=3000))
    assert [(first, last) for first, last, _ in spans(short)] == [(0, 2000), (2000, 3000)]


@pytest.mark.parametrize(
    ("inputs", "chunks", "expected"),
    [
        ((4, 8), (2,), (6.0, 2.0)),
        ((3,), (1, 2, 8), (3.0, 2.0)),  # one chunk of 3, two of 2 and 1, three of 1
        # chunks of 4 views hold 4 views of 16 tokens: one chunk, and three
        ((4, 9), (), (6.5, 2.0)),
    ],
)
def test_chunks_are_whole_views(
    inputs: tuple, chunks: tuple, expected: tuple[float, float]
) -> None:
    encoder = dataclasses.replace(CONFIG.model.encoder, chunk_tokens=64)
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, encoder=encoder))
    data = dataclasses.replace(config.data, hw=(32, 32), inputs=inputs, chunks=chunks)
    assert mean_inputs_and_chunks(config, data) == expected


def test_a_longer_sample_costs_what_is_counted_for_it(tmp_path: Path) -> None:
    """Of a model without stereo everything grows along a straight line."""
    from fsm.train.loop import Training

    config = dataclasses.replace(changed(lpips="none"), stages=(stage(3, targets=1),))
    data = dataclasses.replace(config.data, inputs=(12,), chunks=(4,), window=(14, 20), batch=1)
    run = Training(dataclasses.replace(config, data=data, stages=()), tmp_path, "cpu")
    batch = run.stream.batch(0)
    with FlopCount() as count:
        run.objective.backward(batch, 0)
    assert sample_flops(config, data, 0, tmp_path) == pytest.approx(count.total, rel=1e-6)

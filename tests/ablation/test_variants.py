"""The table: names are keys, and configs differ only where the table says."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.ablation.variants import (
    START_CHUNKS,
    VARIANTS,
    find_variants,
    start_config,
    variant_config,
)
from fsm.config import from_dict, to_dict
from fsm.errors import InputError
from fsm.model import FSM
from fsm.train.config import TrainConfig, load_preset

SMALL = load_preset("ablation-small")


def test_names_are_different_and_cover_what_the_paper_compares() -> None:
    names = [v.name for v in VARIANTS]
    assert len(set(names)) == len(names)
    plain = {
        (v.elastic.importance, v.elastic.anchor, v.chunks)
        for v in VARIANTS
        if v.elastic and v.elastic.lam == 0.5
    }
    policies = ("global", "streaming", "streaming-ema")
    assert {(i, a, 4) for i in ("ewc", "mas", "si") for a in policies} | {
        ("mas", "global", 1)
    } == plain
    swept = {
        (v.elastic.lam, v.elastic.importance_scale)
        for v in VARIANTS
        if v.elastic and v.elastic.importance == "si"
    }
    assert {(lam, scale) for lam in (0.1, 0.5, 1.0) for scale in ("none", "mean")} <= swept
    assert {v.chunks for v in VARIANTS if v.elastic is None} == {1, 4}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_a_variant_differs_from_the_preset_where_it_says_and_survives_a_file(variant) -> None:
    config = variant_config(SMALL, variant, seed=1, init=None)
    assert from_dict(TrainConfig, to_dict(config), "x") == config
    encoder = config.model.encoder
    assert encoder.block.elastic == variant.elastic
    views = FSM(config.model).encoder
    inputs, side = SMALL.data.inputs[0], SMALL.data.hw
    request = dataclasses.replace(_views(inputs), hw=side)
    assert -(-inputs // views.views_per_chunk(request)) == variant.chunks
    back = dataclasses.replace(
        config,
        seed=SMALL.seed,
        model=dataclasses.replace(
            config.model,
            encoder=dataclasses.replace(
                encoder,
                chunk_tokens=SMALL.model.encoder.chunk_tokens,
                block=dataclasses.replace(encoder.block, elastic=SMALL.model.encoder.block.elastic),
            ),
        ),
    )
    assert back == SMALL


def test_the_start_is_plain_lact_on_other_samples_than_what_follows() -> None:
    start = start_config(SMALL, seed=1, steps=7)
    assert start.model.encoder.block.elastic is None
    assert start.data.chunks == START_CHUNKS
    assert start.optim.steps == 7
    seeds = [variant_config(SMALL, v, s, Path("start")).seed for v in VARIANTS for s in (0, 1)]
    assert len(set(seeds)) == 2  # equal samples for all variants of a seed
    assert not {start_config(SMALL, s, 7).seed for s in (0, 1)} & set(seeds)


def test_variants_are_found_in_the_order_of_the_table() -> None:
    assert [v.name for v in find_variants(("lact4", "lact1"))] == ["lact1", "lact4"]
    assert find_variants(()) == VARIANTS
    with pytest.raises(InputError, match="no variant 'lact9'; choose among lact1, lact4"):
        find_variants(("lact9",))


def _views(n: int):
    from tests.small import small_views

    return small_views(n).without_rgb()

"""Retention is that of a closed form; the pull belongs to the
right chunk.
"""

import dataclasses

import pytest
import torch

from benchmarks.ablation.scores import (
    LoadedClip,
    pull_by_chunk,
    rendering,
    score_plans,
    score_stream,
    score_streams,
)
from fsm.evaluate.metrics import psnr, quantised
from fsm.evaluate.protocols import Spread, Stream
from fsm.ttt import ElasticConfig
from fsm.views import SceneFrame, Views
from tests.small import small_model, small_views

HW = (16, 24)


def loaded(frames: int = 199) -> LoadedClip:
    return LoadedClip("film", small_views(frames))


def test_a_scene_that_remembers_everything_has_no_loss() -> None:
    source = loaded()
    everything = {round(t, 4): i for i, t in enumerate(source.views.time.tolist())}

    def perfect(inputs: Views, requests: Views, frame: SceneFrame):
        assert source.views.rgb is not None
        return source.views.rgb[[everything[round(t, 4)] for t in requests.time.tolist()]]

    (score,) = score_streams(perfect, [source, loaded(90)])
    assert score.early == score.late == score.alone == 100.0
    assert set(score.by_position) == {100.0}


def test_a_scene_that_keeps_its_last_chunk_forgets_by_the_difference_of_two_closed_forms() -> None:
    source, plan = loaded(), Stream().plan(199, "film")
    assert source.views.rgb is not None

    def forgetful(inputs: Views, requests: Views, frame: SceneFrame):
        assert inputs.rgb is not None
        last = inputs[-4:]
        assert last.rgb is not None
        nearest = (requests.time[:, None] - last.time[None]).abs().argmin(1)
        return last.rgb[nearest]

    def expected(of_inputs: tuple[int, ...]) -> float:
        rgb = source.views.rgb
        assert rgb is not None
        shown = [min(of_inputs[-4:], key=lambda i: abs(i - t)) for t in plan.target_index[:8]]
        return (
            psnr(quantised(rgb[shown]), quantised(rgb[list(plan.target_index[:8])])).mean().item()
        )

    score = score_stream(forgetful, source)
    assert score.late == pytest.approx(expected(plan.input_index), abs=1e-4)
    assert score.early == pytest.approx(expected(plan.input_index[:16]), abs=1e-4)
    assert score.alone == score.early  # it does not look at the normalisation
    assert len(score.by_position) == 32


def test_the_normalisation_is_the_streams_for_all_but_the_early_inputs_alone() -> None:
    source, plan, seen = loaded(), Stream().plan(199, "film"), []

    def watching(inputs: Views, requests: Views, frame: SceneFrame):
        assert requests.rgb is None
        seen.append((len(inputs), frame.time_span.item()))
        return torch.zeros(len(requests), 3, *HW)

    score_stream(watching, source)
    seconds = [0.1 * (plan.input_index[n - 1] - plan.input_index[0]) for n in (64, 16)]
    assert seen == [
        (64, pytest.approx(seconds[0])),
        (16, pytest.approx(seconds[1])),
        (16, pytest.approx(seconds[0])),
    ]


def test_a_rendering_is_the_models_own_scene() -> None:
    model, source = small_model(), loaded(40)
    inputs, targets = source.views[list(range(0, 40, 8))], source.views[[3, 11]]
    assert inputs.rgb is not None
    # eight bits are what a scene keeps
    inputs = dataclasses.replace(inputs, rgb=quantised(inputs.rgb))
    rgb = rendering(model)(inputs, targets.without_rgb(), SceneFrame.fit(inputs))
    torch.testing.assert_close(rgb, model.reconstruct(inputs).render(targets.without_rgb()).rgb)


def test_scores_are_means_over_the_targets_of_each_clip() -> None:
    films = [loaded(80), LoadedClip("other", small_views(90, seed=1))]
    cell = score_plans(lambda i, r, f: torch.full((len(r), 3, *HW), 0.5), films, Spread(inputs=8))
    assert cell.clips == ("film", "other")
    for source, value in zip(films, cell.psnr, strict=True):
        truth = source.views[
            list(Spread(inputs=8).plan(len(source.views), source.id).target_index)
        ].rgb
        assert truth is not None
        assert value == pytest.approx(
            psnr(quantised(torch.full_like(truth, 0.5)), quantised(truth)).mean().item(), abs=1e-4
        )


def test_the_first_chunk_of_a_streaming_anchor_with_old_importance_is_not_pulled() -> None:
    films = [loaded(80), loaded(20)]  # the second is too short and left out
    model = small_model(elastic=ElasticConfig("mas", "global", timing="previous"))
    pulls = pull_by_chunk(model, films, 16)
    assert len(pulls) == 8  # two views a chunk
    assert pulls[0] == 0.0
    assert min(pulls[1:]) > 0.0
    assert pull_by_chunk(small_model(elastic=None), films, 16) == ()

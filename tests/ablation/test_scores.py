"""Plans keep inputs and targets apart; retention is that of a closed form; the pull belongs to the
right chunk.
"""

import dataclasses

import pytest
import torch

from fsm.ablation.protocol import INPUT_COUNTS, TARGETS, consecutive, fits, spread, stream
from fsm.ablation.scores import (
    Film,
    drawing,
    pull_by_chunk,
    score_plans,
    score_stream,
    score_streams,
)
from fsm.evaluate.metrics import psnr, quantised
from fsm.ttt import ElasticConfig
from fsm.views import SceneFrame, Views
from tests.small import small_model, small_views

HW = (16, 24)


def film(frames: int = 199) -> Film:
    return Film("film", small_views(frames))


@pytest.mark.parametrize("plan", [spread, consecutive])
@pytest.mark.parametrize("frames", [72, 136, 199])
def test_plans_hold_what_they_say(plan, frames: int) -> None:
    targets = set()
    for n in INPUT_COUNTS:
        assert fits(frames, n)
        made = plan(frames, n).checked(frames, "film")
        assert len(made.input_index) == n
        assert len(made.target_index) == TARGETS
        assert list(made.input_index) == sorted(set(made.input_index))
        targets.add(made.target_index)
        if plan is consecutive:
            both = sorted((*made.input_index, *made.target_index))
            assert both == list(range(both[0], both[0] + n + TARGETS))
    # spread inputs are asked for the same frames, however many they are
    assert (len(targets) == 1) == (plan is spread)
    assert not fits(frames, frames - TARGETS + 1)


def test_a_stream_asks_between_its_inputs_and_needs_room_for_that() -> None:
    plan = stream(199)
    assert plan is not None
    assert len(plan.inputs) == 64
    assert (plan.inputs[0], plan.inputs[-1]) == (0, 198)
    assert not set(plan.inputs) & set(plan.targets)
    first = [t for t in plan.targets if t < plan.inputs[plan.early - 1]]
    assert list(plan.targets[: plan.early_targets]) == first
    assert len(first) == 8
    assert stream(100) is None


def test_a_scene_that_remembers_everything_has_no_loss() -> None:
    source = film()
    everything = {round(t, 4): i for i, t in enumerate(source.views.time.tolist())}

    def perfect(inputs: Views, requests: Views, frame: SceneFrame):
        assert source.views.rgb is not None
        return source.views.rgb[[everything[round(t, 4)] for t in requests.time.tolist()]]

    (score,) = score_streams(perfect, [source, film(90)])
    assert score.early == score.late == score.alone == 100.0
    assert set(score.by_position) == {100.0}


def test_a_scene_that_keeps_its_last_chunk_forgets_by_the_difference_of_two_closed_forms() -> None:
    source, plan = film(), stream(199)
    assert plan is not None
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
        shown = [min(of_inputs[-4:], key=lambda i: abs(i - t)) for t in plan.targets[:8]]
        return psnr(quantised(rgb[shown]), quantised(rgb[list(plan.targets[:8])])).mean().item()

    score = score_stream(forgetful, source, plan)
    assert score.late == pytest.approx(expected(plan.inputs), abs=1e-4)
    assert score.early == pytest.approx(expected(plan.inputs[:16]), abs=1e-4)
    assert score.alone == score.early  # it does not look at the normalisation
    assert len(score.by_position) == 32


def test_the_normalisation_is_the_streams_for_all_but_the_early_inputs_alone() -> None:
    source, plan, seen = film(), stream(199), []
    assert plan is not None

    def watching(inputs: Views, requests: Views, frame: SceneFrame):
        assert requests.rgb is None
        seen.append((len(inputs), frame.time_span.item()))
        return torch.zeros(len(requests), 3, *HW)

    score_stream(watching, source, plan)
    seconds = [0.1 * (plan.inputs[n - 1] - plan.inputs[0]) for n in (64, 16)]
    assert seen == [
        (64, pytest.approx(seconds[0])),
        (16, pytest.approx(seconds[1])),
        (16, pytest.approx(seconds[0])),
    ]


def test_drawing_is_the_models_own_scene() -> None:
    model, source = small_model(), film(40)
    inputs, targets = source.views[list(range(0, 40, 8))], source.views[[3, 11]]
    assert inputs.rgb is not None
    # eight bits are what a scene keeps
    inputs = dataclasses.replace(inputs, rgb=quantised(inputs.rgb))
    rgb = drawing(model)(inputs, targets.without_rgb(), SceneFrame.fit(inputs))
    torch.testing.assert_close(rgb, model.reconstruct(inputs).render(targets.without_rgb()).rgb)


def test_scores_are_means_over_the_targets_of_each_clip() -> None:
    films = [film(80), Film("other", small_views(90, seed=1))]
    cell = score_plans(
        lambda i, r, f: torch.full((len(r), 3, *HW), 0.5), films, lambda f: spread(len(f.views), 8)
    )
    assert cell.clips == ("film", "other")
    for source, value in zip(films, cell.psnr, strict=True):
        truth = source.views[list(spread(len(source.views), 8).target_index)].rgb
        assert truth is not None
        assert value == pytest.approx(
            psnr(quantised(torch.full_like(truth, 0.5)), quantised(truth)).mean().item(), abs=1e-4
        )


def test_the_first_chunk_of_a_streaming_anchor_with_old_importance_is_not_pulled() -> None:
    films = [film(80), film(20)]  # the second is too short and left out
    model = small_model(elastic=ElasticConfig("mas", "global", timing="previous"))
    pulls = pull_by_chunk(model, films, 16)
    assert len(pulls) == 8  # two views a chunk
    assert pulls[0] == 0.0
    assert min(pulls[1:]) > 0.0
    assert pull_by_chunk(small_model(elastic=None), films, 16) == ()

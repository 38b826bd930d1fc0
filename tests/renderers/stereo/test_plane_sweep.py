"""Parts of the plane sweep in closed form: upsampling, the view from farther away, and what a look
at the frames says.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fsm.errors import InputError
from fsm.renderers.stereo.config import StereoConfig, SubpixelConfig, SweepConfig
from fsm.renderers.stereo.pipeline import Stereo
from fsm.renderers.stereo.plane_sweep import SHOWN, CoarseSweep, FineSweep
from fsm.renderers.stereo.regularise import JOINED, ConvexUpsampling, EdgeRefinement, Hourglass
from fsm.renderers.stereo.sources import SourceViews
from tests.small import small_views

SMALL = StereoConfig(sources=2, sweep=SweepConfig(planes=8, fine_planes=4))


@pytest.mark.parametrize("stride", [2, 4])
def test_untrained_upsampling_is_bilinear(stride: int) -> None:
    coarse = torch.rand(2, 1, 5, 7)
    fine = ConvexUpsampling(8, stride)(coarse, torch.randn(2, 8, 5, 7))
    expected = F.interpolate(coarse, scale_factor=stride, mode="bilinear", align_corners=False)
    # every neighbour keeps a weight of 1e-4
    torch.testing.assert_close(fine, expected, atol=1e-3, rtol=0)


def test_upsampling_can_keep_an_outline_sharp() -> None:
    """Weights that say 'my own coarse pixel' repeat pixels; bilinear weights would blur the step
    over two of them.
    """
    upsampling = ConvexUpsampling(8, 4)
    assert upsampling.weights.bias is not None
    with torch.no_grad():
        upsampling.weights.bias.fill_(-30.0)
        upsampling.weights.bias.view(9, -1)[4] = 0.0
    coarse = torch.zeros(1, 1, 4, 6)
    coarse[..., 3:] = 1.0
    fine = upsampling(coarse, torch.zeros(1, 8, 4, 6))
    torch.testing.assert_close(fine, F.interpolate(coarse, scale_factor=4, mode="nearest"))


def test_upsampling_stays_between_the_pixels_about_it() -> None:
    upsampling, coarse = ConvexUpsampling(8, 2), torch.rand(1, 1, 6, 6)
    torch.nn.init.normal_(upsampling.weights.weight)
    fine = upsampling(coarse, torch.randn(1, 8, 6, 6))
    highest, lowest = F.max_pool2d(coarse, 3, 1, 1), -F.max_pool2d(-coarse, 3, 1, 1)
    assert (fine <= F.interpolate(highest, scale_factor=2) + 1e-6).all()
    assert (fine >= F.interpolate(lowest, scale_factor=2) - 1e-6).all()


@pytest.mark.parametrize("hw", [(8, 8), (5, 9), (2, 3)])
@pytest.mark.parametrize("wider", [(12, 12), (12, 16, 20)])
def test_the_view_from_farther_away_has_the_size_of_what_it_is_added_to(
    hw: tuple[int, int], wider: tuple[int, ...]
) -> None:
    assert Hourglass(8, wider)(torch.randn(2, 8, *hw)).shape == (2, 8, *hw)


def test_a_change_in_one_corner_is_seen_in_the_other() -> None:
    hourglass, x = Hourglass(8, (12, 12)), torch.randn(1, 8, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(hourglass(x)[..., -1, -1].sum(), x)
    assert gradient[..., :4, :4].abs().max() > 0


def test_untrained_outlines_leave_the_answer_as_it_is() -> None:
    outlines, views = EdgeRefinement(8, 5), small_views(3, hw=(16, 24)).batched()
    assert views.rgb is not None
    logits = torch.randn(3, 5, 4, 6)
    x, finer = outlines(torch.randn(3, 8, 4, 6), logits, outlines.edges(views.rgb.flatten(0, 1)))
    assert x.shape == (3, JOINED, 8, 12)
    torch.testing.assert_close(
        finer, F.interpolate(logits, size=(8, 12), mode="bilinear", align_corners=False)
    )


def test_a_line_of_the_picture_cuts_the_answer_where_it_is() -> None:
    outlines, views = EdgeRefinement(8, 5), small_views(1, hw=(32, 48)).batched()
    torch.nn.init.normal_(outlines.leave.weight)
    assert views.rgb is not None
    rgb = views.rgb.clone()
    rgb[..., 16, 40] += 0.5
    x, logits = torch.randn(1, 8, 8, 12), torch.randn(1, 5, 8, 12)
    changed = (
        (
            outlines(x, logits, outlines.edges(views.rgb.flatten(0, 1)))[1]
            - outlines(x, logits, outlines.edges(rgb.flatten(0, 1)))[1]
        )
        .abs()
        .amax((0, 1))
    )
    rows, columns = (changed > 0).nonzero().unbind(-1)
    assert changed[8, 20] > 0
    # one of each of four 3 x 3 convolutions, and one of the first, of 4 x 4
    assert (rows - 8).abs().max() <= 5
    assert (columns - 20).abs().max() <= 5


@pytest.mark.parametrize("fine", [False, True])
def test_a_look_at_infinity_from_a_frames_own_place_shows_that_frame(fine: bool) -> None:
    views = small_views(3, hw=(16, 24)).batched()
    assert views.rgb is not None
    sweep = FineSweep(SMALL.sweep) if fine else CoarseSweep(SMALL.sweep)
    coarse = (16 // sweep.stride, 24 // sweep.stride)
    own = torch.tensor([[[1, 1]]])
    look = sweep._shown(SourceViews.of(views[1], views, own), torch.zeros(1, 1, 1, *coarse))
    cell = sweep.detail**2
    assert look.shape == (1, 1, SHOWN * cell, *coarse)
    shown = F.pixel_shuffle(look[0], sweep.detail)[0]
    expected = views.rgb[0, 1] if fine else F.avg_pool2d(views.rgb[0, 1], sweep.stride)
    torch.testing.assert_close(shown[:3] + 0.5, expected, atol=1e-5, rtol=0)
    assert float(shown[3].abs().max()) < 1e-5, "two looks at the same frame do not differ"
    torch.testing.assert_close(shown[4:] + 0.5, expected, atol=1e-5, rtol=0)
    other = dataclasses.replace(views[1], rgb=torch.rand(1, 1, 3, 16, 24))
    assert other.rgb is not None
    seen = F.pixel_shuffle(
        sweep._shown(SourceViews.of(other, views, own), torch.zeros(1, 1, 1, *coarse))[0],
        sweep.detail,
    )[0]
    torch.testing.assert_close(seen[:4], shown[:4])
    expected = other.rgb[0, 0] if fine else F.avg_pool2d(other.rgb[0, 0], sweep.stride)
    torch.testing.assert_close(seen[4:] + 0.5, expected, atol=1e-5, rtol=0)


def test_stereo_answers_once_for_every_sweep() -> None:
    views = small_views(4, hw=(16, 24)).batched()
    answers = Stereo(SMALL).eval()(views[1], views)
    assert [a.rho.shape for a in answers] == [(1, 1, 1, 16, 24)] * 2


@pytest.mark.parametrize("hw", [(18, 14), (20, 28), (6, 6)])
def test_stereo_answers_at_sizes_that_its_strides_do_not_divide(hw: tuple[int, int]) -> None:
    views = small_views(4, hw=hw).batched()
    assert [a.rho.shape[-2:] for a in Stereo(SMALL)(views, views)] == [hw, hw]


def test_stereo_compares_the_others_with_the_frames_own_picture() -> None:
    views = small_views(4, hw=(16, 24)).batched()
    stereo = Stereo(SMALL).eval()
    found = stereo(views[[1]], views)
    other = dataclasses.replace(views[[1]], rgb=torch.rand(1, 1, 3, 16, 24))
    assert not torch.allclose(stereo(other, views)[-1].rho, found[-1].rho, atol=1e-3)


def test_training_sees_the_fraction_of_a_pixel_that_rendering_shows() -> None:
    views, stereo = small_views(4, hw=(16, 24)).batched(), Stereo(SMALL)
    swept = stereo(views[[1]], views)[-1].rho
    refined = stereo.eval().layers(views[[1]], views).inverse_depth
    assert not torch.allclose(refined, swept, atol=1e-3)
    assert torch.equal(stereo.train().layers(views[[1]], views).inverse_depth, refined)
    assert not refined.requires_grad


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"planes": 2}, "planes is 2, must be at least 3"),
        ({"farthest": 3.0}, "give farthest < nearest"),
        ({"windows": (3, 4)}, "give odd sides"),
        ({"reach": 1.5}, "reach is 1.5"),
        ({"sharpness": 0.0}, "sharpness is 0.0, must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        SweepConfig(**wrong)
    with pytest.raises(InputError, match="steps is 0"):
        SubpixelConfig(steps=0)

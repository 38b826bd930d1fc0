"""The reference head's geometry against projection, its blend against what a blend must be."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fsm.datasets.open import open_clip
from fsm.datasets.rendered import RenderedClip
from fsm.errors import InputError
from fsm.rays import project, unproject
from fsm.renderers.heads.lvsm import LvsmHead, LvsmHeadConfig
from fsm.renderers.heads.reference import ReferenceHead, ReferenceHeadConfig
from fsm.renderers.stereo.config import MotionConfig, SweepConfig
from fsm.renderers.stereo.motion import image_velocity
from fsm.renderers.stereo.plane_sweep import CoarseSweep, FineSweep
from fsm.renderers.stereo.selection import nearest_views, spread_views, stereo_sources
from fsm.renderers.stereo.sources import SourceViews, pixel_grid, sample_maps
from fsm.renderers.stereo.windows import window_mean
from fsm.views import SceneFrame, Views
from tests.renderers.stereo.rigs import all_sources
from tests.small import decoded, small_views

HW = (16, 24)
RULES = SweepConfig()
FARTHEST = RULES.farthest


def views(v: int, seed: int = 0) -> Views:
    return small_views(v, seed).batched()


def everything(n: int) -> torch.Tensor:
    return torch.arange(n).expand(1, 1, n)


def test_projected_pixels_are_projections_of_the_unprojected_pixels() -> None:
    target, references = views(3)[1], views(3)
    depth = 2.0 + torch.rand(1, 1, 1, *HW)
    pixels = all_sources(target, references).project(1.0 / depth).pixels
    grid = pixel_grid(target).reshape(1, 1, -1, 2)
    points = unproject(grid, depth.reshape(1, 1, -1), target.c2w, target.intrinsics)
    for k in range(3):
        expected, z = project(points, references[k].c2w, references[k].intrinsics)
        assert (z > 0).all()
        torch.testing.assert_close(
            pixels[:, :, k].reshape(1, 1, -1, 2), expected, rtol=1e-4, atol=1e-3
        )


def test_motion_is_a_velocity_of_the_point_in_units_of_depth() -> None:
    target, references = views(3)[1], views(3)
    depth, velocity = torch.full((1, 1, 1, *HW), 3.0), torch.tensor([0.4, -0.2, 0.1])
    motion = (velocity / 3.0)[:, None, None].expand(1, 1, 3, *HW)
    sources = all_sources(target, references)
    motion = torch.einsum("ji,jhw->ihw", target.c2w[0, 0, :3, :3], motion[0, 0])[None, None]
    pixels = sources.project(1.0 / depth, motion).pixels
    points = unproject(
        pixel_grid(target).reshape(1, 1, -1, 2),
        depth.reshape(1, 1, -1),
        target.c2w,
        target.intrinsics,
    )
    for k in range(3):
        moved = points + velocity * (references.time[0, k] - target.time[0, 0])
        expected, _ = project(moved, references[k].c2w, references[k].intrinsics)
        torch.testing.assert_close(
            pixels[:, :, k].reshape(1, 1, -1, 2), expected, rtol=1e-4, atol=1e-3
        )


def test_at_infinity_a_turn_of_the_camera_is_a_homography() -> None:
    target = views(3)[1]
    turned = target.c2w.clone()
    turned[..., :3, :3] = views(3)[2].c2w[..., :3, :3]
    reference = dataclasses.replace(target, c2w=turned)
    zero = torch.zeros(1, 1, 1, *HW)
    pixels = all_sources(target, reference).project(zero).pixels
    fx, fy, cx, cy = target.intrinsics[0, 0]
    K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    H = K @ turned[0, 0, :3, :3].T @ target.c2w[0, 0, :3, :3] @ K.inverse()
    at = torch.cat([pixel_grid(target)[0, 0, 0], torch.ones(*HW, 1)], -1) @ H.T
    torch.testing.assert_close(pixels[0, 0, 0], at[..., :2] / at[..., 2:], rtol=1e-4, atol=1e-3)


def test_points_behind_a_reference_are_not_seen_by_it() -> None:
    target = views(1)
    behind = target.c2w.clone()
    behind[..., :3, 3] += 5.0 * behind[..., :3, 2]  # five units ahead, past the point at depth two
    reference = dataclasses.replace(target, c2w=behind)
    half = torch.full((1, 1, 1, *HW), 0.5)
    seen = all_sources(target, reference).project(half)
    assert target.rgb is not None
    assert not sample_maps(target.rgb, everything(1), seen.pixels)[1].any()
    assert not seen.inside.any()


def test_samples_are_bilinear_between_pixel_centres() -> None:
    frame = torch.arange(12.0).reshape(1, 1, 1, 3, 4).expand(1, 1, 3, 3, 4)
    at = torch.tensor([[1.5, 0.5], [1.0, 0.5], [2.25, 2.0], [0.0, 0.0], [-0.5, 1.0]]).reshape(
        1, 1, 1, 1, 5, 2
    )
    samples, inside = sample_maps(frame, everything(1), at)
    torch.testing.assert_close(samples[0, 0, 0, 0, 0], torch.tensor([1.0, 0.5, 7.75, 0.0, 2.0]))
    assert inside.flatten().tolist() == [1, 1, 1, 1, 0]


def test_nearest_views_are_nearest_in_time_and_pose_and_ordered_by_time() -> None:
    references = views(9)
    index, distance = nearest_views(references[4], references, 3)
    assert index.tolist() == [[[3, 4, 5]]]
    torch.testing.assert_close(distance.mean(-1), torch.ones(1, 1))
    assert distance[0, 0, 1] == 0


def test_too_few_references_are_taken_more_than_once() -> None:
    index, _ = nearest_views(views(2)[0], views(2), 4)
    assert sorted(index.flatten().tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_a_frame_is_not_its_own_source_view(n: int) -> None:
    """It would agree with itself at every depth."""
    references = views(n)
    sources = stereo_sources(references, references, 4)
    assert sources.index.shape == (1, n, 6)
    times = sources.views.time[0][sources.index[0]]
    assert not (times == references.time[0][:, None]).any()


def test_others_of_a_lone_reference_are_itself() -> None:
    index, distance = nearest_views(views(1), views(1), 4, others=True)
    assert index.tolist() == [[[0, 0, 0, 0]]]
    assert distance.tolist() == [[[0.0] * 4]]


def test_too_few_others_are_taken_equally_often() -> None:
    index, distance = nearest_views(views(3)[1], views(3), 4, others=True)
    assert index.tolist() == [[[0, 0, 2, 2]]]
    assert bool(distance.isfinite().all())


def test_a_second_look_from_the_same_place_is_another_view() -> None:
    still = views(3)
    still = dataclasses.replace(still, c2w=still.c2w[:, :1].expand(-1, 3, -1, -1))
    assert nearest_views(still[1], still, 2, others=True)[0].tolist() == [[[0, 2]]]


def test_others_of_a_view_that_is_not_among_them_are_all() -> None:
    references = views(6)
    found, expected = (
        nearest_views(references[[2]], references[[0, 1, 3, 4]], 3, others=o) for o in (True, False)
    )
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("n", [2, 8, 40])
def test_spread_views_keep_their_distance_however_dense_the_inputs(n: int) -> None:
    references = views(n)
    index = spread_views(references[n // 2], references, 3)
    assert index.shape == (1, 1, 3)
    reach = (references.time[0, index[0, 0]] - references.time[0, n // 2]).abs().max()
    assert reach >= 0.2 * (references.time.max() - references.time.min())


def test_time_gaps_are_signed_and_scaled_to_mean_one() -> None:
    references = views(5)
    index = torch.tensor([[[1, 3, 4]]])
    gaps = SourceViews.of(references[2], references, index).relative_gaps
    torch.testing.assert_close(gaps, torch.tensor([[[-0.75, 0.75, 1.5]]]))


def wall(rho: float, n: int = 5, side: int = 64) -> Views:
    """A textured wall at inverse depth ``rho``, seen by a row of cameras."""
    g = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 24, 72, generator=g)
    texture = torch.nn.functional.interpolate(texture, (96, 288), mode="bicubic").clamp(0, 1)
    c2w = torch.eye(4).repeat(1, n, 1, 1)
    c2w[0, :, 0, 3] = torch.linspace(-0.6, 0.6, n)
    intrinsics = torch.tensor([64.0, 64.0, 32.0, 32.0]).expand(1, n, 4)
    row = Views(c2w, intrinsics, torch.linspace(-1, 1, n)[None], (side, side))
    rgb = []
    for shift in rho * 64.0 * c2w[0, :, 0, 3]:  # pixels by which each camera sees the wall moved
        x = (torch.arange(side) + 0.5 + 112.0 + shift) / 288 * 2 - 1
        y = (torch.arange(side) + 0.5 + 16.0) / 96 * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        rgb.append(torch.nn.functional.grid_sample(texture, grid, align_corners=False)[0])
    return dataclasses.replace(row, rgb=torch.stack(rgb)[None])


@pytest.mark.parametrize("planes", [16, 32])
def test_plane_sweeps_find_a_fronto_parallel_wall_without_training(planes: int) -> None:
    sweep, fine = CoarseSweep(SweepConfig(planes=planes)).eval(), FineSweep(RULES).eval()
    rho = 1.07 * float(sweep.hypotheses[planes // 2 + 1])  # between two planes
    row = wall(rho)
    sources = SourceViews.of(row[2], row, torch.tensor([[[0, 1, 3, 4]]]))
    first = sweep(sources).rho
    second = fine(sources, prior=first).rho
    errors = [
        ((found / rho - 1.0).abs()[0, 0, 0, 16:48, 16:48]).mean() for found in (first, second)
    ]
    assert errors[0] < 0.15
    half_a_step = RULES.reach / 7 * (1.0 + FARTHEST / rho)  # of the second sweep's eight hypotheses
    assert errors[1] < min(half_a_step, 0.5 * errors[0])


@torch.no_grad()
def test_where_nothing_tells_the_sweep_says_far() -> None:
    row = dataclasses.replace(wall(0.5), rgb=torch.full((1, 5, 3, 64, 64), 0.5))
    found = CoarseSweep(RULES).eval()(SourceViews.of(row[2], row, torch.tensor([[[1, 3]]])))
    assert float(found.rho.max()) < 0.05


@torch.no_grad()
def test_the_untrained_sweeps_know_the_depth_of_moving_worlds() -> None:
    """With parallax they are off by less than half of what the best single depth is; from a tripod
    they say far, as it is.
    """
    sweep, fine = CoarseSweep(RULES).eval(), FineSweep(RULES).eval()
    for seed in (1001, 1002, 1005, 1007):
        clip = open_clip(f"world:{seed}")
        inputs, target = clip.views(range(0, 48, 4)), clip.views([22])
        frame = SceneFrame.fit(inputs.batched())
        sources = stereo_sources(
            frame.to_model(target.batched()), frame.to_model(inputs.batched()), 4
        )
        assert isinstance(clip, RenderedClip)
        rho = 1.0 / (clip.depth([22])[None] * frame.scale)
        truth = (rho + FARTHEST).log()
        found = fine(sources, prior=sweep(sources).rho).rho
        if seed == 1007:  # nothing is nearer than 500 extents of the path
            assert float(((found + 0.0225) / (rho + 0.0225)).log().abs().mean()) < 0.1, (
                "far: beyond some 45 extents"
            )
            continue
        off = float(((found + FARTHEST).log() - truth).abs().mean())
        assert off < 0.5 * float((truth - truth.median()).abs().mean()), seed


def head(**options) -> ReferenceHead:
    torch.manual_seed(1)
    return ReferenceHead(
        32, 8, ReferenceHeadConfig(hidden=16, refinement_width=8, references=3, **options)
    ).eval()


def test_blend_of_one_colour_is_that_colour() -> None:
    """The weights sum to one: where frames and predicted colour agree nothing else can come out."""
    model, references = head(), views(5)
    references = dataclasses.replace(
        references, rgb=torch.full_like(torch.empty(1, 5, 3, *HW), 0.5)
    )
    with torch.no_grad():
        model.colour.weight.zero_()
        model.colour.bias.zero_()  # sigmoid(0) = 0.5
    out = decoded(model, torch.randn(1, 2, 6, 32), references[1:3].without_rgb(), references)
    torch.testing.assert_close(out.rgb, torch.full_like(out.rgb, 0.5))
    assert out.depth is not None
    assert out.depth.shape == (1, 2, 1, *HW)


def test_untrained_head_of_a_still_camera_copies_what_it_saw() -> None:
    model, scene = head(), views(1)
    still = Views.cat([scene, scene, scene])
    still = dataclasses.replace(still, time=torch.tensor([[-1.0, 0.0, 1.0]]))
    with torch.no_grad():
        model.colour.bias[3::4] = -20.0  # the blending logit of the predicted colour
        model.colour.weight.zero_()
    out = decoded(model, torch.randn(1, 1, 6, 32), still[1].without_rgb(), still).rgb
    torch.testing.assert_close(out, still[1].rgb, rtol=0, atol=1e-4)


def test_head_works_with_a_single_input_frame() -> None:
    out = decoded(head(), torch.randn(1, 2, 6, 32), views(2).without_rgb(), views(1))
    assert torch.isfinite(out.rgb).all()


def test_every_part_of_the_head_but_stereo_gets_a_gradient() -> None:
    model = head()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    out = decoded(model, torch.randn(1, 2, 6, 32), views(5)[1:3].without_rgb(), views(5))
    out.rgb.square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("stereo."):  # learnt in stages of its own
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_positions_have_the_gradient_finite_differences_say() -> None:
    target, references = views(3)[1], views(3)
    rgb = references.rgb
    assert rgb is not None
    rho = torch.full((1, 1, 1, *HW), 0.3, requires_grad=True)

    def total(r: torch.Tensor) -> torch.Tensor:
        return all_sources(target, references).project(r).pixels.square().mean()

    total(rho).backward()
    assert rho.grad is not None
    step = 1e-2
    numeric = (total(rho.detach() + step) - total(rho.detach() - step)) / (2 * step)
    torch.testing.assert_close(rho.grad.sum(), numeric, rtol=1e-3, atol=1e-3)


def test_missing_frames_are_one_sentence() -> None:
    with pytest.raises(InputError, match="input frames"):
        decoded(head(), torch.randn(1, 1, 6, 32), views(1), views(2).without_rgb())


def test_the_direct_head_stays_between_zero_and_one_and_ignores_the_inputs() -> None:
    direct = LvsmHead(32, 8, LvsmHeadConfig())
    tokens = 100 * torch.randn(1, 2, 6, 32)
    out = decoded(direct, tokens, views(2), views(2).without_rgb()).rgb
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(out, decoded(direct, tokens, views(2), views(3)).rgb)


def moving_texture(
    velocity: tuple[float, float], gaps: list[float], hw: tuple[int, int] = (64, 64)
) -> torch.Tensor:
    """Frames [1 n 3 h w] of a smooth texture that has moved by velocity * gap pixels."""
    h, w = hw
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    frames = []
    for gap in gaps:
        u, v = x - velocity[0] * gap, y - velocity[1] * gap
        channels = [
            (u / 7 + v / 11).sin(),
            (u / 5 - v / 9).sin() * (v / 13).cos(),
            (u / 17).cos() * (v / 6).sin(),
        ]
        frames.append(0.5 + 0.25 * torch.stack(channels))
    return torch.stack(frames)[None]


def velocity_of(frames: torch.Tensor, base: torch.Tensor, gaps: list[float]) -> torch.Tensor:
    n, still = len(gaps), dataclasses.replace(views(1), hw=(64, 64), rgb=None)
    shown = dataclasses.replace(still[[0] * n], time=torch.tensor([gaps]), rgb=frames)
    target = dataclasses.replace(still, time=torch.zeros(1, 1))
    return image_velocity(all_sources(target, shown), base, MotionConfig())


@pytest.mark.parametrize("velocity", [(0.0, 0.0), (2.5, -1.5), (-6.0, 3.0)])
def test_image_velocity_finds_a_translation(velocity: tuple[float, float]) -> None:
    gaps = [-1.5, -0.5, 0.5, 1.5]
    frames = moving_texture(velocity, gaps)
    base = pixel_grid(dataclasses.replace(views(1), hw=(64, 64), rgb=None)).expand(
        1, 1, 4, 64, 64, 2
    )
    found = velocity_of(frames, base, gaps)
    inner = found[0, 0, 0, 16:48, 16:48]
    assert (inner - torch.tensor(velocity)).norm(dim=-1).median() < 0.15


def test_image_velocity_is_still_without_texture_and_without_time() -> None:
    base = pixel_grid(dataclasses.replace(views(1), hw=(64, 64), rgb=None)).expand(
        1, 1, 3, 64, 64, 2
    )
    flat = torch.full((1, 3, 3, 64, 64), 0.5)
    assert not velocity_of(flat, base, [-1.0, 0.5, 1.5]).any()
    moving = moving_texture((2.0, 0.0), [-1.0, 0.0, 1.0])
    assert not velocity_of(moving, base, [1.0, 1.0, 1.0]).any()


@pytest.mark.parametrize("side", [3, 5])
def test_means_over_rows_then_columns_are_means_over_windows(side: int) -> None:
    x = torch.randn(2, 3, 5, 9, 7, dtype=torch.float64)
    window = F.avg_pool2d(
        x.flatten(0, 1), side, stride=1, padding=side // 2, count_include_pad=False
    )
    torch.testing.assert_close(window_mean(x, side), window.view_as(x), rtol=1e-12, atol=1e-12)

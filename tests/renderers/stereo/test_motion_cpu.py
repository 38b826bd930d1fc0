"""The compiled alignment along paths through time against plain torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fsm.renderers.stereo.config import MotionConfig
from fsm.renderers.stereo.motion_cpu import alignment_on_cpu
from fsm.renderers.stereo.motion_plain import plain_alignment


def example(
    seed: int, k: int, margin: float = 5.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Smooth frames of another size than the level, positions so far from their borders, and
    velocities to start from.
    """
    hw, frames = (11, 19), (14, 17)
    g = torch.Generator().manual_seed(seed)
    maps = F.interpolate(torch.rand(6, 3, 5, 6, generator=g), frames, mode="bicubic").view(
        2, 3, 3, *frames
    )
    y, x = torch.meshgrid(torch.arange(hw[0]) + 0.5, torch.arange(hw[1]) + 0.5, indexing="ij")
    start = (
        torch.stack([x, y])
        + torch.randn(2, 4, k, 2, 1, 1, generator=g)
        + 0.3 * torch.randn(2, 4, k, 2, *hw, generator=g)
    )
    start[..., 0, :, :].clamp_(margin, frames[1] - margin)
    start[..., 1, :, :].clamp_(margin, frames[0] - margin)
    gaps = torch.randn(2, 4, k, generator=g).sort(-1).values
    index = torch.randint(0, 3, (2, 4, k), generator=g)
    return (
        maps,
        index,
        start,
        0.3 * torch.randn(2, 4, 2, *hw, generator=g),
        gaps,
    )


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_steps_are_those_of_plain_torch(k: int, iterations: int) -> None:
    for seed in range(3):
        maps, index, start, u, gaps = example(seed, k)
        found = alignment_on_cpu(maps, index, start, u, gaps, MotionConfig(iterations=iterations))
        expected = plain_alignment(maps, index, start, u, gaps, MotionConfig(iterations=iterations))
        # A step multiplies what rounding the one before left where two colour edges are nearly
        # parallel.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if iterations == 1 else 1e-3)
        assert float((found - u).abs().max()) > 0.1


def test_where_frames_end_steps_are_those_of_plain_torch_but_for_what_a_single_frame_sees() -> None:
    """One sample inside and the others next to nothing: their gaps have no variance but
    rounding's.
    """
    maps, index, start, u, gaps = example(5, 4, margin=-9.0)
    found = alignment_on_cpu(maps, index, start, u, gaps, MotionConfig(iterations=1))
    expected = plain_alignment(maps, index, start, u, gaps, MotionConfig(iterations=1))
    assert float((found - expected).abs().quantile(0.9)) < 1e-4


def test_any_number_of_threads_gives_the_same_bits_and_the_start_is_kept() -> None:
    threads, results = torch.get_num_threads(), []
    maps, index, start, u, gaps = example(1, 4)
    before = u.clone()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(
                alignment_on_cpu(maps, index, start, u, gaps, MotionConfig(iterations=3))
            )
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    assert torch.equal(u, before)

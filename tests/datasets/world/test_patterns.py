"""Patterns of the world's surfaces: in range, finite, filtered; noise against finite
differences.
"""

import pytest
import torch

from fsm.datasets.world.description import SURFACES
from fsm.datasets.world.patterns import NAMES, PATTERNS, again, cell_hash, chance, noise
from fsm.datasets.world.sampling import sample_worlds


@pytest.mark.parametrize("kind", range(len(PATTERNS)), ids=NAMES)
def test_patterns_are_finite_in_range_and_fade_to_their_mean(kind: int) -> None:
    """With the numbers that worlds have; averaged over ten thousand places, far and near give the
    same colour to 0.1.
    """
    surfaces = sample_worlds(range(40))[1]
    its = (surfaces.pattern == kind) & (torch.arange(SURFACES) != 18)  # 18 is the sky's outdoors
    rows = its.nonzero()[:12]
    assert len(rows) >= 4
    for b, s in rows.tolist():
        u, v = torch.rand(2, 10_000) * 60 - 30
        seed = torch.full_like(u, float(surfaces.seed[b, s])).int()
        first, second = (
            torch.full_like(u, float(n[b, s])) for n in (surfaces.first, surfaces.second)
        )
        means = []
        for footprint in (1e-3, 0.2, 2.5):
            position, shade = PATTERNS[kind](
                u, v, torch.full_like(u, footprint), seed, first, second
            )
            assert bool(torch.isfinite(position).all())
            assert bool(torch.isfinite(shade).all())
            assert float(position.min()) >= 0.0
            assert float(position.max()) <= 1.001
            assert float(shade.abs().max()) <= 1.0
            means.append(float(position.mean()))
        assert abs(means[0] - means[1]) < 0.1
        assert abs(means[0] - means[2]) < 0.15


def test_noise_is_smooth_and_its_gradient_its_derivative() -> None:
    x, y, z = (torch.rand(3, 4000, dtype=torch.float64) * 40 - 20).unbind(0)
    seed = torch.full((4000,), 77, dtype=torch.int32)
    step = 1e-5

    def at(dx: float = 0.0, dy: float = 0.0, dz: float = 0.0) -> torch.Tensor:
        return noise(x + dx, y + dy, z + dz, seed)[0]

    value, *gradient = noise(x, y, z, seed)
    assert float(value.abs().max()) <= 1.0
    assert float(value.std()) > 0.25
    for axis in range(3):
        shift = [0.0, 0.0, 0.0]
        shift[axis] = step
        difference = (at(*shift) - at(*[-s for s in shift])) / (2 * step)
        assert torch.allclose(gradient[axis], difference, atol=1e-4)


def test_chances_are_even_and_unrelated() -> None:
    ix, iy = torch.meshgrid(torch.arange(-150, 150), torch.arange(-150, 150), indexing="ij")
    h = cell_hash(ix.int().flatten(), iy.int().flatten(), torch.tensor(99, dtype=torch.int32))
    first, second = chance(h), chance(again(h))
    grid = first.view(300, 300)
    pairs = [
        (first, second),
        (grid[1:].flatten(), grid[:-1].flatten()),
        (grid[:, 1:].flatten(), grid[:, :-1].flatten()),
    ]
    for a, b in pairs:
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.02
    assert torch.histc(first, 10, 0, 1).sub(9000).abs().max() < 500

"""Tables to write and read again, and comparisons that say what may differ."""

import torch

from fsm.renderers.splat_files import SplatTable


def random_table(n: int = 300, degree: int = 3, seed: int = 0) -> SplatTable:
    """Gaussians of ordinary size; quaternions of any length and sign."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    return SplatTable(
        2.0 * normal(n, 3),
        3.0 * normal(n, 4),
        normal(n, 3) - 3.0,
        2.0 * normal(n),
        torch.cat([normal(n, 1, 3), 0.2 * normal(n, (degree + 1) ** 2 - 1, 3)], dim=1),
    )


def fields(table: SplatTable) -> dict[str, torch.Tensor]:
    return {name: getattr(table, name) for name in ("means", "quats", "log_scales", "logits", "sh")}


def assert_same_bits(a: SplatTable, b: SplatTable) -> None:
    for (name, x), y in zip(fields(a).items(), fields(b).values(), strict=True):
        assert x.shape == y.shape, name
        assert torch.equal(x.contiguous().view(torch.int32), y.contiguous().view(torch.int32)), name


def unit(quats: torch.Tensor) -> torch.Tensor:
    """Unit quaternions with w >= 0: one of the two that mean the same rotation."""
    quats = quats / quats.norm(dim=-1, keepdim=True)
    return torch.where(quats[:, :1] < 0, -quats, quats)


def rotation_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference of two sets of rotations, as the distance of unit quaternions."""
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    return float(torch.minimum((a - b).norm(dim=-1), (a + b).norm(dim=-1)).max())

"""The .splat format against a peer's file and to half a step of its bytes."""

from pathlib import Path

import numpy as np
import torch

from fsm.renderers.splat_files import SplatTable, read_table, write_table
from tests.renderers.splat_files.tables import random_table, rotation_error

C0 = 0.28209479177387814


def test_peers_file_is_the_ply_it_was_made_from(shared_data: Path) -> None:
    splat, ply = (
        read_table(shared_data / "splats" / f"three_points.{kind}") for kind in ("splat", "ply")
    )
    assert torch.equal(splat.means, ply.means)
    assert torch.allclose(splat.log_scales, ply.log_scales, atol=1e-6)
    # The peer cuts to whole bytes instead of rounding: up to a whole step.
    assert float((splat.logits.sigmoid() - ply.logits.sigmoid()).abs().max()) <= 1.0 / 255
    colour = 0.5 + C0 * ply.sh[:, 0]
    assert float((0.5 + C0 * splat.sh[:, 0] - colour).abs().max()) <= 1.0 / 255
    assert rotation_error(splat.quats, ply.quats) < 2.0 / 128
    assert splat.sh_degree == 0


def test_values_come_back_to_half_a_step_and_largest_first(tmp_path: Path) -> None:
    table = random_table(n=500)
    write_table(tmp_path / "a.splat", table)
    assert (tmp_path / "a.splat").stat().st_size == 500 * 32
    again = read_table(tmp_path / "a.splat")
    # Means are exact and all different: they say which Gaussian is which.
    order = {tuple(m): i for i, m in enumerate(table.means.tolist())}
    table = table[torch.tensor([order[tuple(m)] for m in again.means.tolist()])]
    size = (table.log_scales.double().sum(-1).exp() * table.logits.double().sigmoid()).numpy()
    assert (np.diff(size) <= 0).all()
    assert torch.allclose(again.log_scales, table.log_scales, atol=1e-6)
    assert float((again.logits.sigmoid() - table.logits.sigmoid()).abs().max()) <= 0.5 / 255 + 1e-6
    colour = (0.5 + C0 * table.sh[:, 0]).clamp(0, 1)
    assert float((0.5 + C0 * again.sh[:, 0] - colour).abs().max()) <= 0.5 / 255 + 1e-6
    # Half a step each of 1/128, a component of +1 by a whole one; lengths are no longer 1, which
    # the ratio takes care of.
    assert rotation_error(again.quats, table.quats) < 2.0 * 0.5 / 128 * 2


def test_extremes_stay_finite(tmp_path: Path) -> None:
    inf = float("inf")
    table = SplatTable(
        torch.zeros(2, 3),
        torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]),
        torch.tensor([[-inf, -200.0, 0.0], [0.0, 0.0, 0.0]]),
        torch.tensor([-inf, inf]),
        torch.full((2, 1, 3), 1e3),
    )
    write_table(tmp_path / "a.splat", table)
    again = read_table(tmp_path / "a.splat")
    assert again.gaussians().opacities.tolist() == [1.0, 0.0]
    assert torch.isfinite(again.log_scales).all()
    assert rotation_error(again.quats, torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4)) == 0.0

"""What a peer's converter (npm: @playcanvas/splat-transform) reads in our files, and we in its;
skipped where it is not there.
"""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from fsm.renderers.splat_files import SplatTable, read_table, write_table
from tests.renderers.splat_files.tables import random_table

PEER = shutil.which("splat-transform")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PEER is None, reason="splat-transform is not on PATH"),
]


def convert(source: Path, target: Path, *flags: str) -> Path:
    subprocess.run(
        [str(PEER), "-w", *flags, str(source), str(target)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return target


def as_decoded_by_peer(path: Path) -> SplatTable:
    """The peer's values of a file, by way of its CSV."""
    with open(convert(path, path.with_name(f"{path.name}.csv"))) as handle:
        rows = list(csv.reader(handle))
    # The numbers are as written, before a PLY would round them: JavaScript prints -Infinity and
    # 1e-7.
    values = np.array([[float(v.replace("Infinity", "inf")) for v in row] for row in rows[1:]])
    of = {name: torch.from_numpy(values[:, i].astype(np.float32)) for i, name in enumerate(rows[0])}

    def stack(*names: str) -> torch.Tensor:
        return torch.stack([of[n] for n in names], dim=-1)

    rest = sum(name.startswith("f_rest_") for name in of)
    parts = [stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None]]
    if rest:
        parts.append(
            stack(*(f"f_rest_{i}" for i in range(rest))).reshape(-1, 3, rest // 3).transpose(1, 2)
        )
    return SplatTable(
        stack("x", "y", "z"),
        stack("rot_0", "rot_1", "rot_2", "rot_3"),
        stack("scale_0", "scale_1", "scale_2"),
        of["opacity"],
        torch.cat(parts, dim=1),
    )


def assert_same(ours: SplatTable, peers: SplatTable, quat: float = 2e-7) -> None:
    assert torch.equal(ours.means, peers.means)
    assert torch.allclose(ours.log_scales, peers.log_scales, rtol=2e-7, atol=2e-7)
    assert torch.allclose(ours.sh, peers.sh, rtol=3e-7, atol=3e-7)
    assert torch.allclose(ours.logits, peers.logits, rtol=1e-6, atol=1e-6)
    assert float((ours.quats - peers.quats).abs().max()) <= quat


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_peer_reads_our_ply_to_the_bit(tmp_path: Path, degree: int) -> None:
    table = random_table(degree=degree)
    write_table(tmp_path / "a.ply", table)
    assert_same(table, as_decoded_by_peer(tmp_path / "a.ply"), quat=0.0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_peer_reads_our_spz_as_we_do(tmp_path: Path, degree: int) -> None:
    write_table(tmp_path / "a.spz", random_table(degree=degree))
    assert_same(read_table(tmp_path / "a.spz"), as_decoded_by_peer(tmp_path / "a.spz"))


@pytest.mark.parametrize("version", ["3", "4"])
@pytest.mark.parametrize("degree", [0, 3])
def test_we_read_the_peers_spz_as_it_does(tmp_path: Path, version: str, degree: int) -> None:
    write_table(tmp_path / "a.ply", random_table(degree=degree))
    out = convert(tmp_path / "a.ply", tmp_path / "b.spz", "--spz-version", version)
    assert_same(read_table(out), as_decoded_by_peer(out))


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_we_read_the_peers_compressed_ply_as_it_does(tmp_path: Path, degree: int) -> None:
    write_table(tmp_path / "a.ply", random_table(n=700, degree=degree))
    out = convert(tmp_path / "a.ply", tmp_path / "b.compressed.ply")
    assert_same(read_table(out), as_decoded_by_peer(out))


def test_peer_reads_our_splat(tmp_path: Path) -> None:
    write_table(tmp_path / "a.splat", random_table())
    ours, peers = read_table(tmp_path / "a.splat"), as_decoded_by_peer(tmp_path / "a.splat")
    assert torch.equal(ours.means, peers.means)
    assert torch.allclose(ours.log_scales, peers.log_scales, rtol=2e-7, atol=2e-7)
    assert torch.allclose(ours.sh, peers.sh, rtol=3e-7, atol=3e-7)
    assert torch.allclose(
        ours.logits.sigmoid(), peers.logits.sigmoid(), atol=1.1e-6
    )  # it holds opacity to 1e-6 off 0 and 1
    # It spreads bytes over [-1, 1] with 255 as the end; the format's own viewer has 128 as 0, as we
    # do: half a step apart.
    unit = ours.quats / ours.quats.norm(dim=-1, keepdim=True)
    assert float((unit - peers.quats).abs().max()) < 1.5 / 255

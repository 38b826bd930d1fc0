"""SPZ against a peer's decodes, and all versions against each other."""

import dataclasses
import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard

from fsm.errors import InputError
from fsm.renderers.gaussians.rotations import covariance_matrix
from fsm.renderers.gaussians.spherical_harmonics import basis, rotate_sh
from fsm.renderers.splat_files import read_table, write_table
from fsm.renderers.splat_files.spz import PARITY, RUB, read_spz
from tests.renderers.splat_files.tables import assert_same_bits, random_table, rotation_error, unit

STEPS = (9, 1, 3, 3, 4)


def test_version_4_is_what_the_peer_decodes(shared_data: Path) -> None:
    table = read_table(shared_data / "splats" / "biker.spz")
    reference = np.load(shared_data / "splats" / "biker.spz.reference.npz")
    index = torch.from_numpy(reference["index"])
    assert len(table) == int(reference["count"])
    for name, values in (
        ("xyz", table.means),
        ("scale_log", table.log_scales),
        ("rot_wxyz", table.quats),
        ("opacity_logit", table.logits),
        ("f_dc", table.sh[:, 0]),
    ):
        # The peer computes in float32 what is computed in float64 here.
        np.testing.assert_allclose(
            values[index].numpy(), reference[name], rtol=3e-7, atol=3e-7, err_msg=name
        )
    assert (table.means.amin(0).numpy() == reference["xyz_min"]).all()


def test_version_3_is_the_ply_it_was_made_from(shared_data: Path) -> None:
    spz, ply = (
        read_table(shared_data / "splats" / f"three_points.{kind}") for kind in ("spz", "ply")
    )
    assert float((spz.means - ply.means).abs().max()) <= 0.5 / 4096 + 1e-6
    assert float((spz.log_scales - ply.log_scales).abs().max()) <= 0.5 / 16 + 1e-6
    assert float((spz.logits.sigmoid() - ply.logits.sigmoid()).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((spz.sh[:, 0] - ply.sh[:, 0]).abs().max()) <= 0.5 / 255 / 0.15 + 1e-6
    assert rotation_error(spz.quats, ply.quats) < 2 * 3**0.5 * 0.5 * 0.5**0.5 / 511
    # The peer keeps 5 bits of degree 1 and 4 of the others.
    assert float((spz.sh[:, 1:4] - ply.sh[:, 1:4]).abs().max()) <= 1 / 32 + 1 / 256
    assert float((spz.sh[:, 4:] - ply.sh[:, 4:]).abs().max()) <= 1 / 16 + 1 / 256


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_values_come_back_to_half_a_step(tmp_path: Path, degree: int) -> None:
    table = random_table(n=400, degree=degree)
    write_table(tmp_path / "a.spz", table)
    again = read_table(tmp_path / "a.spz")
    # the farthest lies within 128
    assert float((again.means - table.means).abs().max()) <= 0.5 / 2**16 + 1e-6
    held = table.log_scales.clamp(-10.0, 255 / 16 - 10.0)
    assert float((again.log_scales - held).abs().max()) <= 0.5 / 16 + 1e-6
    assert float((again.logits.sigmoid() - table.logits.sigmoid()).abs().max()) <= 0.5 / 255 + 1e-6
    held = table.sh[:, 0].clamp(-0.5 / 0.15, 0.5 / 0.15)
    assert float((again.sh[:, 0] - held).abs().max()) <= 0.5 / 255 / 0.15 + 1e-6
    assert rotation_error(again.quats, table.quats) < 2 * 3**0.5 * 0.5 * 0.5**0.5 / 511
    if degree:
        # the ends are -1 and 127/128, either of them possibly mirrored
        held = table.sh[:, 1:].clamp(-1.0, 1.0)
        assert float((again.sh[:, 1:] - held).abs().max()) <= 1 / 128 + 1e-6
    write_table(tmp_path / "b.spz", again)
    assert_same_bits(read_table(tmp_path / "b.spz"), again)


@pytest.mark.parametrize(
    ("farthest", "bits"), [(1.0, 16), (127.9, 16), (128.1, 15), (2047.0, 12), (30000.0, 8)]
)
def test_far_centres_cost_fraction_bits_instead_of_wrapping(
    tmp_path: Path, farthest: float, bits: int
) -> None:
    table = random_table(n=4, degree=0)
    means = torch.tensor(
        [[farthest, 0.0, 0.1], [0.0, -farthest, 0.2], [0.0, 0.0, farthest], [0.3, 0.2, 0.1]]
    )
    write_table(tmp_path / "a.spz", dataclasses.replace(table, means=means))
    assert gzip.decompress((tmp_path / "a.spz").read_bytes())[13] == bits
    again = read_table(tmp_path / "a.spz")
    assert float((again.means - means).abs().max()) <= 0.5 / 2**bits + 1e-6 * farthest


def test_centres_out_of_reach_are_refused(tmp_path: Path) -> None:
    table = random_table(n=4, degree=0)
    far = dataclasses.replace(table, means=1e6 * table.means)
    with pytest.raises(InputError, match=r"SPZ holds them to 32768; write a PLY"):
        write_table(tmp_path / "a.spz", far)
    assert list(tmp_path.iterdir()) == []


def _body(path: Path) -> tuple[bytes, list[bytes]]:
    raw = gzip.decompress(path.read_bytes())
    n, degree = struct.unpack_from("<I", raw, 8)[0], raw[12]
    ends = list(
        itertools.accumulate([n * k for k in (*STEPS, 3 * ((degree + 1) ** 2 - 1))], initial=16)
    )
    assert ends[-1] == len(raw)
    return raw[:16], [raw[a:b] for a, b in itertools.pairwise(ends)]


def as_version_4(path: Path, extension: bytes = b"") -> bytes:
    """A file of version 3 in the container of version 4."""
    head, streams = _body(path)
    streams = [s for s in streams if s]
    packed = [zstandard.compress(s) for s in streams]
    flags = head[14] | (2 if extension else 0)
    start = 32 + len(extension)
    header = (
        head[:4]
        + struct.pack("<I", 4)
        + head[8:14]
        + struct.pack("<BBI12x", flags, len(streams), start)
    )
    toc = b"".join(struct.pack("<QQ", len(p), len(s)) for p, s in zip(packed, streams, strict=True))
    return header + extension + toc + b"".join(packed)


@pytest.mark.parametrize("degree", [0, 3])
def test_version_4_holds_what_version_3_holds(tmp_path: Path, degree: int) -> None:
    write_table(tmp_path / "a.spz", random_table(degree=degree))
    (tmp_path / "b.spz").write_bytes(as_version_4(tmp_path / "a.spz"))
    assert_same_bits(read_table(tmp_path / "a.spz"), read_table(tmp_path / "b.spz"))


def test_versions_1_and_2(tmp_path: Path) -> None:
    table = random_table(n=50, degree=1)
    write_table(tmp_path / "a.spz", table)
    head, streams = _body(tmp_path / "a.spz")
    # RUB; w follows from the length, w >= 0
    q = unit(table.quats)[:, 1:] * torch.tensor([1.0, -1.0, -1.0])
    streams[4] = (q * 127.5 + 127.5).round().to(torch.uint8).numpy().tobytes()
    (tmp_path / "2.spz").write_bytes(
        gzip.compress(head[:4] + struct.pack("<I", 2) + head[8:] + b"".join(streams))
    )
    second, third = read_table(tmp_path / "2.spz"), read_table(tmp_path / "a.spz")
    xyz = unit(table.quats)[:, 1:]
    assert float((second.quats[:, 1:] - xyz).abs().max()) <= 0.5 / 127.5 + 1e-6
    assert bool((second.quats[:, 0] >= 0).all())
    assert torch.equal(second.means, third.means)
    assert torch.equal(second.sh, third.sh)
    streams[0] = (table.means * torch.tensor([1.0, -1.0, -1.0])).half().numpy().tobytes()
    (tmp_path / "1.spz").write_bytes(
        gzip.compress(head[:4] + struct.pack("<I", 1) + head[8:] + b"".join(streams))
    )
    first = read_table(tmp_path / "1.spz")
    assert torch.equal(first.means, table.means.half().float())
    assert torch.equal(first.quats, second.quats)


def test_antialiasing_is_kept(tmp_path: Path) -> None:
    table = random_table(n=5, degree=0)
    for flag in (True, False):
        write_table(tmp_path / "a.spz", dataclasses.replace(table, antialiased=flag))
        assert read_table(tmp_path / "a.spz").antialiased is flag


def test_signs_of_harmonics_are_those_of_the_functions() -> None:
    directions = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=-1)
    for signs in itertools.product((1.0, -1.0), repeat=3):
        parity = torch.tensor(
            [np.prod([signs["xyz".index(a)] for a in axes]) for axes in PARITY], dtype=torch.float64
        )
        mirrored = basis(directions * torch.tensor(signs, dtype=torch.float64), 3)
        assert torch.allclose(mirrored, basis(directions, 3) * parity, atol=1e-12)


def test_axes_of_the_file_are_a_half_turn_of_ours(tmp_path: Path) -> None:
    """What lies in the file, taken as it is, is the scene turned by 180 degrees about x: y up, z
    towards the viewer.
    """
    table = random_table(n=60)
    write_table(tmp_path / "a.spz", table)
    head, streams = _body(tmp_path / "a.spz")
    record = struct.pack("<III", 0xADBE0003, 4, 6)  # "these axes are RDF": read as they are
    raw = head[:14] + b"\x02" + head[15:] + b"".join(streams) + record
    (tmp_path / "raw.spz").write_bytes(gzip.compress(raw))
    (tmp_path / "raw4.spz").write_bytes(as_version_4(tmp_path / "a.spz", record))
    ours, raw = read_table(tmp_path / "a.spz"), read_table(tmp_path / "raw.spz")
    assert_same_bits(raw, read_table(tmp_path / "raw4.spz"))
    turn = torch.diag(torch.tensor(RUB))
    turned = ours.rotated(turn)
    assert torch.equal(turned.means, raw.means)
    # A half turn about its own axes changes no Gaussian, so quaternions may differ and covariances
    # may not.
    a, b = (t.gaussians().condition().covariances for t in (turned, raw))
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)
    assert torch.allclose(turned.sh, raw.sh, atol=1e-6)
    assert torch.allclose(rotate_sh(ours.sh, turn), raw.sh, atol=1e-6)


@pytest.mark.parametrize(
    ("system", "signs"), [(1, (-1, 1, -1)), (4, (1, -1, -1)), (7, (-1, -1, 1)), (0, (1, -1, -1))]
)
def test_other_coordinate_systems_mirror_too(
    tmp_path: Path, system: int, signs: tuple[int, ...]
) -> None:
    table = random_table(n=60)
    write_table(tmp_path / "a.spz", table)
    other = struct.pack("<II4s", 0xADBE0002, 4, b"????")
    for value, name in ((6, "rdf"), (system, "other")):
        record = other + struct.pack("<III", 0xADBE0003, 4, value)
        (tmp_path / f"{name}.spz").write_bytes(as_version_4(tmp_path / "a.spz", record))
    rdf, read = read_table(tmp_path / "rdf.spz"), read_table(tmp_path / "other.spz")
    mirror = torch.tensor(signs, dtype=torch.float32)
    assert torch.equal(read.means, rdf.means * mirror)
    # A mirrored Gaussian has the mirrored covariance.
    a, b = (covariance_matrix(t.gaussians().condition().covariances) for t in (rdf, read))
    assert torch.allclose(b, mirror[:, None] * a * mirror, rtol=1e-4, atol=1e-6)


def test_unknown_coordinate_systems_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "a.spz", random_table(n=3))
    (tmp_path / "b.spz").write_bytes(
        as_version_4(tmp_path / "a.spz", struct.pack("<III", 0xADBE0003, 4, 12))
    )
    with pytest.raises(InputError, match="coordinate system 12"):
        read_spz(tmp_path / "b.spz")

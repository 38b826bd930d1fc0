"""Standard and compressed PLY against a peer's library, a peer's decodes and themselves."""

import warnings
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch

from fsm.renderers.splat_files import SplatTable, read_splats, read_table, write_table
from tests.renderers.splat_files.tables import assert_same_bits, random_table

NAMES = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
NAMES += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_written_and_read_again_is_the_same_to_the_bit(tmp_path: Path, degree: int) -> None:
    table = random_table(degree=degree)
    write_table(tmp_path / "a.ply", table)
    again = read_table(tmp_path / "a.ply")
    assert_same_bits(table, again)
    write_table(tmp_path / "b.ply", again)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply", "b.ply"]


def test_layout_is_the_standard_one(tmp_path: Path) -> None:
    table = random_table(n=5)
    write_table(tmp_path / "a.ply", table)
    vertex = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    rest = [f"f_rest_{i}" for i in range(45)]
    assert [p.name for p in vertex.properties] == [*NAMES[:9], *rest, *NAMES[9:]]
    for channel in range(3):  # all of red, then green, then blue
        for k in range(15):
            assert (
                vertex[f"f_rest_{15 * channel + k}"] == table.sh[:, 1 + k, channel].numpy()
            ).all()
    assert (vertex["rot_0"] == table.quats[:, 0].numpy()).all()


def test_files_of_peers_are_what_plyfile_reads(shared_data: Path, tmp_path: Path) -> None:
    for name in ("three_points", "splatapult_16"):
        path = shared_data / "splats" / f"{name}.ply"
        vertex = plyfile.PlyData.read(path)["vertex"]
        table = read_table(path)
        for i, axis in enumerate("xyz"):
            assert (table.means[:, i].numpy() == vertex[axis]).all()
            assert (table.log_scales[:, i].numpy() == vertex[f"scale_{i}"]).all()
            assert (table.sh[:, 0, i].numpy() == vertex[f"f_dc_{i}"]).all()
            assert (table.sh[:, 15, i].numpy() == vertex[f"f_rest_{15 * i + 14}"]).all()
        write_table(tmp_path / "again.ply", table)
        again = plyfile.PlyData.read(tmp_path / "again.ply")["vertex"]
        kept = [p.name for p in vertex.properties if p.name not in ("nx", "ny", "nz")]
        assert all((again[p] == vertex[p]).all() for p in kept)
    gaussians = read_splats(shared_data / "splats" / "splatapult_16.ply")
    assert bool((gaussians.opacities == 1.0).all())  # logit 100
    assert bool(gaussians.is_static.all())


def test_bytes_after_the_last_row_are_said_and_left_aside(shared_data: Path) -> None:
    path = shared_data / "splats" / "pc_short_100.ply"
    with pytest.warns(UserWarning, match="14029 bytes after the declared 100 of vertex"):
        table = read_table(path)
    vertex = plyfile.PlyData.read(path)["vertex"]
    assert len(table) == 100
    assert (table.logits.numpy() == vertex["opacity"]).all()


@pytest.mark.parametrize("order", ["<", ">", "ascii"])
def test_byte_orders_text_other_types_and_extra_properties(tmp_path: Path, order: str) -> None:
    table = random_table(n=7, degree=1)
    names = [n for n in NAMES if n not in ("nx", "ny", "nz")][::-1] + [
        f"f_rest_{i}" for i in range(9)
    ]
    rows = np.zeros(
        7,
        dtype=[
            ("flag", "u1"),
            *((n, "f8" if n == "opacity" else "f4") for n in names),
            ("id", "i2"),
        ],
    )
    rows["id"] = -3
    values = {
        "x": table.means[:, 0],
        "z": table.means[:, 2],
        "y": table.means[:, 1],
        "opacity": table.logits,
    }
    for i in range(4):
        values[f"rot_{i}"] = table.quats[:, i]
    for i in range(3):
        values |= {f"scale_{i}": table.log_scales[:, i], f"f_dc_{i}": table.sh[:, 0, i]}
    for i in range(9):
        values[f"f_rest_{i}"] = table.sh[:, 1 + i % 3, i // 3]
    for name, value in values.items():
        rows[name] = value.numpy()
    element = plyfile.PlyElement.describe(rows, "vertex", comments=["made by a test"])
    other = plyfile.PlyElement.describe(np.zeros(2, dtype=[("k", "i4")]), "other")
    text = order == "ascii"
    plyfile.PlyData([other, element], text=text, byte_order="=" if text else order).write(
        tmp_path / "a.ply"
    )
    again = read_table(tmp_path / "a.ply")
    for name in ("means", "quats", "log_scales", "logits", "sh"):
        # Text is written with enough digits for doubles; binary is exact.
        assert torch.allclose(
            getattr(again, name), getattr(table, name), rtol=1e-6 if text else 0.0, atol=0.0
        )


def test_infinite_opacity_logits_and_log_scales_of_zero_are_values(tmp_path: Path) -> None:
    table = random_table(n=3, degree=0)
    logits, log_scales = (
        torch.tensor([float("inf"), -float("inf"), 100.0]),
        table.log_scales.clone(),
    )
    log_scales[0, 0] = -float("inf")
    write_table(
        tmp_path / "a.ply", SplatTable(table.means, table.quats, log_scales, logits, table.sh)
    )
    gaussians = read_splats(tmp_path / "a.ply")
    assert gaussians.opacities.tolist() == [1.0, 0.0, 1.0]
    assert float(gaussians.scales[0, 0]) == 0.0


def test_compressed_file_is_what_the_peer_decodes(shared_data: Path) -> None:
    table = read_table(shared_data / "splats" / "biker.compressed.ply")
    reference = np.load(shared_data / "splats" / "biker.compressed.reference.npz")
    index = torch.from_numpy(reference["index"])
    assert len(table) == int(reference["count"])
    for name, values in (
        ("xyz", table.means),
        ("scale_log", table.log_scales),
        ("rot_wxyz", table.quats),
        ("opacity_logit", table.logits),
        ("f_dc", table.sh[:, 0]),
    ):
        # Both compute in float64 from the same integers and round once: at most the last bit
        # differs.
        np.testing.assert_allclose(
            values[index].numpy(), reference[name], rtol=1.2e-7, atol=1e-9, err_msg=name
        )
    assert (table.means.amin(0).numpy() == reference["xyz_min"]).all()
    assert (table.means.amax(0).numpy() == reference["xyz_max"]).all()


def _compressed(table: SplatTable, with_colour_bounds: bool, with_sh: bool) -> plyfile.PlyData:
    """A compressed PLY whose bounds are those of the whole table, packed here from the description
    of the format.
    """
    n = len(table)
    chunks = -(-n // 256)
    rgb = 0.5 + 0.28209479177387814 * table.sh[:, 0]
    values = {"": table.means, "scale_": table.log_scales}
    bounds = [
        (f"{end}_{p}{a}", v[:, i].aminmax())
        for p, v in values.items()
        for end in ("min", "max")
        for i, a in enumerate("xyz")
    ]
    if with_colour_bounds:
        bounds += [
            (f"{end}_{a}", rgb[:, i].aminmax())
            for end in ("min", "max")
            for i, a in enumerate("rgb")
        ]
    chunk = np.zeros(chunks, dtype=[(name, "f4") for name, _ in bounds])
    for name, (low, high) in bounds:
        chunk[name] = float(low if name.startswith("min") else high)

    def levels(v: torch.Tensor, bits: int, stretch: bool = True) -> np.ndarray:
        low, high = v.aminmax() if stretch else (0.0, 1.0)
        return (
            ((v.double() - low) / (high - low) * ((1 << bits) - 1))
            .clamp(0, (1 << bits) - 1)
            .round()
            .long()
            .numpy()
        )

    vertex = np.zeros(
        n, dtype=[(f"packed_{k}", "u4") for k in ("position", "rotation", "scale", "color")]
    )
    for name, v in (("packed_position", table.means), ("packed_scale", table.log_scales)):
        vertex[name] = levels(v[:, 0], 11) << 21 | levels(v[:, 1], 10) << 11 | levels(v[:, 2], 11)
    colour = [levels(rgb[:, i], 8, with_colour_bounds) for i in range(3)]
    alpha = levels(torch.sigmoid(table.logits), 8, False)
    vertex["packed_color"] = colour[0] << 24 | colour[1] << 16 | colour[2] << 8 | alpha
    for row, q in zip(
        vertex, (table.quats / table.quats.norm(dim=-1, keepdim=True)).tolist(), strict=True
    ):
        largest = max(range(4), key=lambda i: abs(q[i]))
        sign = -1 if q[largest] < 0 else 1
        word = largest
        for i in range(4):
            if i != largest:
                word = word << 10 | round((sign * q[i] / 2**0.5 + 0.5) * 1023)
        row["packed_rotation"] = word
    elements = [
        plyfile.PlyElement.describe(chunk, "chunk"),
        plyfile.PlyElement.describe(vertex, "vertex"),
    ]
    if with_sh:
        rest = table.sh[:, 1:].transpose(1, 2).reshape(n, -1)
        sh = np.zeros(n, dtype=[(f"f_rest_{i}", "u1") for i in range(rest.shape[1])])
        for i in range(rest.shape[1]):
            sh[f"f_rest_{i}"] = ((rest[:, i] / 8 + 0.5) * 256).floor().clamp(0, 255).numpy()
        elements.append(plyfile.PlyElement.describe(sh, "sh"))
    return plyfile.PlyData(elements, byte_order="<")


@pytest.mark.parametrize("with_colour_bounds", [True, False])
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_compressed_values_come_back_to_half_a_step(
    tmp_path: Path, with_colour_bounds: bool, degree: int
) -> None:
    table = random_table(n=300, degree=degree)
    _compressed(table, with_colour_bounds, degree > 0).write(tmp_path / "a.ply")
    again = read_table(tmp_path / "a.ply")
    for name, steps in (("means", (2047, 1023, 2047)), ("log_scales", (2047, 1023, 2047))):
        a, b = getattr(table, name), getattr(again, name)
        half = (a.amax(0) - a.amin(0)) / torch.tensor(steps) / 2
        assert bool(((a - b).abs() <= half * 1.0001 + 1e-6).all()), name
    assert bool(((table.logits.sigmoid() - again.logits.sigmoid()).abs() <= 0.5 / 255 + 1e-6).all())
    rgb, rgb_again = (0.5 + 0.28209479177387814 * t.sh[:, 0] for t in (table, again))
    if with_colour_bounds:
        assert bool(((rgb - rgb_again).abs() <= (rgb.amax(0) - rgb.amin(0)) / 510 + 1e-6).all())
    else:
        assert bool(((rgb.clamp(0, 1) - rgb_again).abs() <= 0.5 / 255 + 1e-6).all())
    # Three components are off by half a step of sqrt(2)/1023 each, and the largest, at least 1/2,
    # by as much as they turn it.
    quats = table.quats / table.quats.norm(dim=-1, keepdim=True)
    difference = torch.minimum(
        (quats - again.quats).norm(dim=-1), (quats + again.quats).norm(dim=-1)
    )
    assert float(difference.max()) < 3**0.5 * (2**0.5 / 1023 / 2) * 2
    # Bins of 1/32 over [-4, 4], decoded to their middle; the outermost to the ends themselves.
    assert bool(((table.sh[:, 1:] - again.sh[:, 1:]).abs() <= 8 / 256 / 2 + 1e-6).all())


def test_no_warning_and_no_open_file_is_left(shared_data: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_table(shared_data / "splats" / "three_points.ply")

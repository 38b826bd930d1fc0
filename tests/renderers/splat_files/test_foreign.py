"""Files of other tools that a library reads and writes for us, and compressed PLY of our own."""

import dataclasses
import io
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fsm.errors import InputError
from fsm.renderers.splat_files import SplatTable, read_table, write_table
from tests.renderers.splat_files.tables import random_table, rotation_error


def matched(read: SplatTable, table: SplatTable) -> SplatTable:
    """Gaussians of ``table`` in the order of ``read``: writers sort them."""
    index = torch.cdist(read.means.double(), table.means.double()).argmin(1)
    assert len(index.unique()) == len(table) == len(read)
    return table[index]


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_compressed_ply_holds_values_to_half_a_step(tmp_path: Path, degree: int) -> None:
    table = random_table(n=700, degree=degree)
    write_table(tmp_path / "a.compressed.ply", table)
    read = read_table(tmp_path / "a.compressed.ply")
    other = matched(read, table)
    for k in range(0, 700, 256):
        part = slice(k, k + 256)
        span = other.means[part].amax(0) - other.means[part].amin(0)
        off = (read.means[part] - other.means[part]).abs().amax(0)
        assert bool((off <= span * torch.tensor([0.51 / 2047, 0.51 / 1023, 0.51 / 2047])).all())
    assert rotation_error(read.quats, other.quats) < 2 * 3**0.5 * 0.5 * 2**0.5 / 1023
    opacity = read.logits.sigmoid() - other.logits.sigmoid()
    assert float(opacity.abs().max()) <= 0.5 / 255 + 1e-6
    assert float((read.log_scales - other.log_scales).abs().max()) <= 0.51 / 1023 * 8
    colour = float(other.sh[:, 0].amax() - other.sh[:, 0].amin())
    assert float((read.sh[:, 0] - other.sh[:, 0]).abs().max()) <= 0.51 / 255 * colour
    if degree:
        assert float((read.sh[:, 1:] - other.sh[:, 1:]).abs().max()) <= 0.5 / 32 + 1e-6


def test_compressed_ply_of_a_peer_is_written_again_as_it_was(
    shared_data: Path, tmp_path: Path
) -> None:
    """What a peer rounded to its steps stays there when chunks stay the same."""
    table = read_table(shared_data / "splats" / "biker.compressed.ply")[:256]
    write_table(tmp_path / "a.compressed.ply", table)
    read = read_table(tmp_path / "a.compressed.ply")
    other = matched(read, table)
    assert torch.allclose(read.means, other.means, atol=1e-5, rtol=1e-5)
    assert rotation_error(read.quats, other.quats) < 1e-3
    assert torch.allclose(read.logits.sigmoid(), other.logits.sigmoid(), atol=1e-6)


def test_version_4_of_spz_holds_what_version_3_holds(tmp_path: Path) -> None:
    for degree in (0, 2):
        table = dataclasses.replace(random_table(degree=degree), antialiased=True)
        for kind in ("spz", "spz-4"):
            write_table(tmp_path / f"{kind}.spz", table, kind)
        third, fourth = (read_table(tmp_path / f"{k}.spz") for k in ("spz", "spz-4"))
        assert (tmp_path / "spz-4.spz").read_bytes()[:8] == b"NGSP\x04\0\0\0"
        for field in dataclasses.fields(SplatTable):
            a, b = (getattr(t, field.name) for t in (third, fourth))
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


# Steps of scale, opacity, colour, rotation and harmonics, measured with version 0.6.0.
STEPS = {"sog": (0.03, 0.004, 0.03, 0.01, 0.02), "ksplat": (1e-6, 0.005, 0.02, 1e-6, 1e-6)}


@pytest.mark.parametrize("kind", ["sog", "ksplat"])
@pytest.mark.parametrize("degree", [0, 3])
def test_a_library_s_formats_hold_what_was_written(tmp_path: Path, kind: str, degree: int) -> None:
    pytest.importorskip("gaussforge")
    table = random_table(n=400, degree=degree)
    path = tmp_path / f"a.{kind}"
    write_table(path, table)
    read = read_table(path)
    other = matched(read, table)
    scale, opacity, colour, rotation, harmonics = STEPS[kind]
    assert float((read.means - other.means).abs().max()) < 1e-3
    assert float((read.log_scales - other.log_scales).abs().max()) < scale
    assert float((read.logits.sigmoid() - other.logits.sigmoid()).abs().max()) < opacity
    # bytes hold colours that a screen can show
    shown = 0.5 / (0.5 / math.sqrt(math.pi))
    a, b = (t.sh[:, 0].clamp(-shown, shown) for t in (read, other))
    assert float((a - b).abs().max()) < colour
    assert rotation_error(read.quats, other.quats) < rotation
    assert read.sh.shape == table.sh.shape
    if degree:
        assert float((read.sh[:, 1:] - other.sh[:, 1:]).abs().max()) < harmonics


def _archive(**parts: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name.replace("_json", ".json"), data)
    return memory.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.sog", b"PK\x03\x04 and nothing more", "is not a .sog archive"),
        ("a.sog", _archive(other=b"1"), "without a meta.json"),
        ("a.sog", _archive(meta_json=b"{}", big=bytes(80 << 20)), "would unpack to"),
        ("a.sog", _archive(meta_json=b"{}"), "gaussforge cannot convert sog to ply"),
        ("a.ksplat", bytes(100), "ends within the header"),
        ("a.ksplat", bytes([1, 2]) + bytes(4094), "version 1.2; version 0.1"),
        ("a.ksplat", np.array([256, 1, 1, 0, 10**6], "<u4").tobytes() + bytes(5000), "declares"),
    ],
)
def test_what_is_no_such_file_gets_a_sentence(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    if "gaussforge" in says:
        pytest.importorskip("gaussforge")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=says):
        read_table(tmp_path / name)


def test_a_file_that_ends_the_library_does_not_end_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsm.renderers.splat_files import foreign

    dying = tmp_path / "dying.py"
    dying.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(foreign, "CONVERTER", dying)
    monkeypatch.setattr(foreign, "require", lambda *_: None)
    (tmp_path / "a.sog").write_bytes(_archive(meta_json=b"{}"))
    with pytest.raises(InputError, match="its process ended with status -11"):
        read_table(tmp_path / "a.sog")
    with pytest.raises(InputError, match="cannot convert ply to sog"):
        write_table(tmp_path / "b.sog", random_table(n=3))
    assert not (tmp_path / "b.sog").exists()

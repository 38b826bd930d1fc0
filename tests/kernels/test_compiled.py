"""Compiled code: where it is kept, when it is announced, when it is made anew; vectors against
numpy.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fsm.kernels import compiled
from fsm.kernels.compiled import kernel, on_threads
from fsm.kernels.simd import (
    absolute,
    any_of,
    bits_set,
    exp2,
    fill,
    floor,
    item,
    lanes_of,
    least,
    load,
    most,
    real,
    root,
    select,
    shifted,
    spread,
    store,
    take_next,
    totals,
    trailing_zeros,
    whole,
)

SOURCE = """
from fsm.kernels.compiled import kernel

@kernel("int64(int64)")
def add(x):
    return x + 1
"""


def module(path: Path, text: str = SOURCE) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of kernels whose compilation was announced, on what counts as a terminal."""
    names: list[str] = []
    shown = compiled._status
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr(compiled, "_status", lambda name: names.append(name) or shown(name))
    monkeypatch.setattr(compiled.config, "CACHE_DIR", "")
    return names


def test_code_is_kept_beside_its_source_and_made_anew_when_that_changes(
    tmp_path: Path, announced: list[str]
) -> None:
    path = tmp_path / "one.py"
    assert module(path).add(1) == 2
    assert announced == ["add"]
    assert list((tmp_path / "__pycache__").glob("*.nbc"))
    assert module(path).add(1) == 2
    assert announced == ["add"]
    assert module(path, SOURCE.replace("x + 1", "x + 2")).add(1) == 3
    assert announced == ["add", "add"]


def test_numbers_and_parts_from_elsewhere_count_as_the_source(
    tmp_path: Path, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = SOURCE.replace("import kernel", "import kernel\nfrom other_file import STEP, twice")
    text = text.replace("x + 1", "twice(x) + STEP")
    for i, (step, twice) in enumerate(((1, "x + x"), (2, "x + x"), (2, "x * 4"))):
        part = (
            f"from fsm.kernels.compiled import part\nSTEP = {step}\n"
            f"@part\ndef twice(x):\n    return {twice}\n"
        )
        monkeypatch.setitem(sys.modules, "other_file", module(tmp_path / "other_file.py", part))
        assert module(tmp_path / "one.py", text).add(3) == (7, 8, 14)[i]
    assert announced == ["add"] * 3


def test_parts_of_parts_count_as_the_source(
    tmp_path: Path, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    middle = (
        "from fsm.kernels.compiled import part\nfrom last_file import step\n"
        "@part\ndef more(x):\n    return x + step()\n"
    )
    text = SOURCE.replace("import kernel", "import kernel\nfrom middle_file import more").replace(
        "x + 1", "more(x)"
    )
    for step in (1, 2):
        last = f"from fsm.kernels.compiled import part\n@part\ndef step():\n    return {step}\n"
        monkeypatch.setitem(sys.modules, "last_file", module(tmp_path / "last_file.py", last))
        monkeypatch.setitem(sys.modules, "middle_file", module(tmp_path / "middle_file.py", middle))
        assert module(tmp_path / "one.py", text).add(3) == 3 + step
    assert announced == ["add"] * 2


def test_broken_cache_files_are_replaced(tmp_path: Path, announced: list[str]) -> None:
    path = tmp_path / "one.py"
    module(path).add(1)
    for pattern in ("*.nbc", "*.nbi"):
        for file in (tmp_path / "__pycache__").glob(pattern):
            file.write_bytes(b"not a cache")
        announced.clear()
        assert module(path).add(1) == 2
        assert announced == ["add"]
    announced.clear()
    assert module(path).add(1) == 2
    assert announced == []


def test_sources_in_a_read_only_folder_use_the_users_cache(
    tmp_path: Path, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(compiled, "user_cache", lambda: home)
    (tmp_path / "__pycache__").write_text(
        "a file here keeps even the superuser from making the folder"
    )
    for _ in range(2):
        assert module(tmp_path / "one.py").add(1) == 2
    assert announced == ["add"]
    assert list(home.rglob("*.nbc"))


def test_two_sources_of_one_name_do_not_share_a_users_cache(
    tmp_path: Path, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "user_cache", lambda: tmp_path / "home")
    for folder, step in (("a", 1), ("b", 2), ("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "__pycache__").write_text("")
        assert (
            module(tmp_path / folder / "one.py", SOURCE.replace("x + 1", f"x + {step}")).add(1)
            == 1 + step
        )
    assert announced == ["add", "add"]


def test_without_any_folder_it_still_runs(
    tmp_path: Path, announced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "__pycache__").write_text("")
    monkeypatch.setattr(compiled, "user_cache", lambda: tmp_path / "__pycache__" / "below a file")
    for _ in range(2):
        assert module(tmp_path / "one.py").add(1) == 2
    assert announced == ["add", "add"]


def test_errors_of_any_thread_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        on_threads(_refuse_odd, 3)


@kernel("void(int64)")
def _refuse_odd(worker):
    if worker % 2:
        raise ZeroDivisionError


@kernel("void(float32[::1], float32[::1], int64[::1], int64[::1])")
def _try_vectors(a, out, counts, numbers):
    x, y = load(a, 0), load(a, 16)
    results = (
        x + y,
        x - 2,
        3.0 * x,
        x / y,
        exp2(x),
        select((x < y) & (x > 0.0), x, y),
        select((x <= 1.0) | (y >= 1.0), fill(np.float32(1.0)), fill(np.float32(0.0))),
        spread(a, 5),
        totals((x, y, x * y)),
    )
    for i in range(9):
        store(out, 16 * i, results[i])
    counts[0] = any_of(x > 100.0)
    counts[1] = any_of(x < 100.0)
    counts[2], counts[3] = trailing_zeros(numbers[0]), bits_set(numbers[0])
    counts[4] = take_next(numbers)
    counts[5] = numbers[0]
    counts[6], counts[7] = item(numbers, 1), lanes_of(x < y)


def test_vectors_are_numpys() -> None:
    a = np.random.default_rng(0).normal(size=32).astype(np.float32) * 3
    x, y = a[:16], a[16:]
    out, counts = np.empty(9 * 16, np.float32), np.empty(8, np.int64)
    _try_vectors(a, out, counts, np.array([0b101000, 9]))
    sums = np.array([x.sum(), y.sum(), (x * y).sum()])
    chosen = np.where((x < y) & (x > 0), x, y)
    limits = ((x <= 1) | (y >= 1)).astype(np.float32)
    expected = [x + y, x - 2, 3 * x, x / y, np.exp2(x), chosen, limits, np.full(16, a[5])]
    np.testing.assert_allclose(out[:128].reshape(8, 16), expected, rtol=5e-7)
    np.testing.assert_allclose(out[128:131], sums, rtol=1e-5)
    assert counts[:7].tolist() == [0, 1, 3, 2, 0b101000, 0b101001, 9]
    assert [bool(counts[7] >> i & 1) for i in range(16)] == (x < y).tolist()


@kernel("void(float32[::1], int32[::1], float32[::1], int32[::1])")
def _try_roundings(a, numbers, out, found):
    x, n = load(a, 0), load(numbers, 0)
    results = (
        floor(x),
        root(absolute(x)),
        absolute(x),
        least(x, 0.5),
        most(x, load(a, 16)),
        real(n),
        real(whole(x)),
    )
    for i in range(7):
        store(out, 16 * i, results[i])
    bits = (
        shifted(n, 3),
        shifted(n, whole(absolute(x))),
        n ^ 0x55,
        n & 0xFF,
        n | fill(1),
        n * 0x2C1B3C6D,
    )
    for i in range(6):
        store(found, 16 * i, bits[i])


def test_roundings_and_bits_are_numpys() -> None:
    draws = np.random.default_rng(1)
    a = draws.normal(size=32).astype(np.float32) * 3
    x, n = a[:16], draws.integers(-(2**31), 2**31, size=16).astype(np.int32)
    out, found = np.empty(7 * 16, np.float32), np.empty(6 * 16, np.int32)
    _try_roundings(a, n, out, found)
    size = np.abs(x)
    expected = [
        np.floor(x),
        np.sqrt(size),
        size,
        np.minimum(x, 0.5),
        np.maximum(x, a[16:]),
        n,
        np.trunc(x),
    ]
    np.testing.assert_allclose(out.reshape(7, 16), np.stack(expected), rtol=2e-7)
    u = n.view(np.uint32)
    bits = [
        u >> 3,
        u >> size.astype(np.uint32),
        u ^ 0x55,
        u & 0xFF,
        u | 1,
        u * np.uint32(0x2C1B3C6D),
    ]
    assert (found.view(np.uint32).reshape(6, 16) == np.stack(bits).astype(np.uint32)).all()


@kernel("void(float32[::1])")
def _powers(a):
    for i in range(0, a.size, 16):
        store(a, i, exp2(load(a, i)))


def test_powers_of_two_are_exact_to_rounding() -> None:
    a = np.linspace(-126, 127, 1 << 16).astype(np.float32)
    found = a.copy()
    _powers(found)
    assert np.abs(found / np.exp2(a.astype(np.float64)) - 1).max() < 3e-7
    small = np.full(16, -1e30, np.float32)
    _powers(small)
    assert (small < 1.2e-38).all()

"""Outputs exist whole or not at all; inputs that cannot be parsed are named."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import fsm.files
from fsm.errors import InputError
from fsm.files import MAX_CONFIG_BYTES, atomic_file, atomic_folder, read_json, read_yaml, write_json


class _Stopped(BaseException):
    """Stands for Ctrl-C: not an ``Exception``."""


def _write_then_raise(path: Path, error: type[BaseException]) -> None:
    path.write_text("half of the n")
    raise error


def test_a_file_appears_under_its_name_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "film.mp4"
    with atomic_file(path) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, _Stopped])
def test_a_failed_file_leaves_the_old_one_and_no_trace(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as temporary:
        _write_then_raise(temporary, error)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("x")
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "b.txt").write_text("x")
            (folder / "sub" / "b.txt").chmod(0o600)
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    assert modes == {"a.txt": 0o640, "folder": 0o750, "sub": 0o750, "b.txt": 0o640}


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_replaces_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr(fsm.files, "_renameat2", None)
    path = tmp_path / "out"
    with atomic_folder(path) as temporary:
        (temporary / "old.txt").write_text("old")
    with atomic_folder(path) as temporary:
        (temporary / "new.txt").write_text("new")
        assert [p.name for p in path.iterdir()] == ["old.txt"]
    assert [p.name for p in path.iterdir()] == ["new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_folder_leaves_the_old_one_and_no_trace(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(error), atomic_folder(path) as temporary:
        _write_then_raise(temporary / "new.txt", error)
    assert (path / "old.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_swap_that_fails_half_way_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsm.files, "_renameat2", None)
    path = tmp_path / "out"
    path.mkdir()
    (path / "old.txt").write_text("old")
    genuine, calls = os.replace, []

    def replace(a, b) -> None:
        calls.append(b)
        if len(calls) == 2:
            raise OSError(5, "Input/output error", str(b))
        genuine(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(path) as temporary:
        (temporary / "new.txt").write_text("new")
    assert (path / "old.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match="out"), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "new.txt").write_text("new")
    assert (tmp_path / "out").read_text() == "a file"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_inside_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for make in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match="file"), make(tmp_path / "file" / "out"):
            raise AssertionError("the body must not run")


KILLED = """
    import itertools, sys
    from pathlib import Path
    from fsm.files import atomic_file, atomic_folder
    root = Path(sys.argv[1])
    for i in itertools.count():
        with atomic_folder(root / "folder") as folder:
            for name in "abc":
                (folder / name).write_text(str(i) * 2000)
        with atomic_file(root / "file") as file:
            file.write_text(str(i) * 2000)
        print(i, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="folders are swapped in one step on Linux only")
def test_a_killed_writer_always_leaves_a_whole_file_and_a_whole_folder(tmp_path: Path) -> None:
    """Ten kills here; the swap of folders is the point: between two renames there would be no
    folder at all.
    """
    for kill in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.003 * kill + 0.001)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        contents = {(tmp_path / "folder" / name).read_text() for name in "abc"}
        assert len(contents) == 1
        for text in (*contents, (tmp_path / "file").read_text()):
            number = text[: len(text) // 2000]
            assert number.isdecimal()
            assert text == number * 2000


def test_json_round_trip_and_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "Gemälde", "numbers": [1, 2.5, None]})
    assert read_json(path) == {"name": "Gemälde", "numbers": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"psnr": float("nan")})
    assert read_json(path)["name"] == "Gemälde"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 1}}', b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b"'single'", b"\x00"],
    ids=["empty", "cut", "trailing", "not UTF-8", "deep", "long number", "quotes", "zero byte"],
)
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(path)


def test_missing_and_oversized_json_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json cannot be read \(No such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)
    (tmp_path / "b.json").write_text("[" + "1," * 100 + "1]")
    with pytest.raises(InputError, match=r"b\.json is 203 bytes, more than the 100 allowed"):
        read_json(tmp_path / "b.json", max_bytes=100)


BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML = {
    "alias bomb": (BOMB, r"uses YAML aliases"),
    "merged alias": ("a: &a {x: 1}\nb: {<<: *a}\n", "uses YAML aliases"),
    "python object": ("a: !!python/object/apply:os.system [touch canary]\n", "not valid YAML"),
    "own tag": ("a: !thing 3\n", "not valid YAML"),
    "deep lists": ("[" * 60_000, "nested more than 32 deep"),
    "deep maps": ("{a: " * 15_000, "nested more than 32 deep"),
    "oversized": ("a: 1\n" * MAX_CONFIG_BYTES, f"a config is at most {MAX_CONFIG_BYTES}"),
    "no such day": ("a: 2020-13-45\n", "not valid YAML"),
    "long number": ("a: " + "9" * 5000, "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "cut": ("a: [1, 2\n", "not valid YAML"),
}


@pytest.mark.parametrize("kind", BAD_YAML)
def test_hostile_yaml_is_refused_quickly_in_one_line(tmp_path: Path, kind: str) -> None:
    text, says = BAD_YAML[kind]
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"a\.yaml .*{says}") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.yaml"]


def test_plain_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: {b: [1, 2.5, null, true]} # note\n")
    assert read_yaml(path) == {"a": {"b": [1, 2.5, None, True]}}
    path.write_bytes(b"a: \xff")
    with pytest.raises(InputError, match=r"a\.yaml"):
        read_yaml(path)
    with pytest.raises(InputError, match=r"b\.yaml cannot be read"):
        read_yaml(tmp_path / "b.yaml")

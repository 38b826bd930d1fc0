"""What is installed is what is meant to be, and files stay small enough to read."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fsm
from tests.conftest import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
MOVED = ("configs", "datasets", "renderers", "viewer")
SOURCES = sorted(
    p
    for top in ("fsm", *MOVED)
    for p in (REPOSITORY / top).rglob("*.py")
    if not p.parent.is_symlink()
)


def installed_name(folder: Path) -> str:
    parts = folder.relative_to(REPOSITORY).parts
    return ".".join(("fsm", *parts) if parts[0] in MOVED else parts)


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_every_package_folder_is_listed() -> None:
    folders = {p.parent for p in SOURCES if p.name == "__init__.py"}
    folders = {f for f in folders if not any(parent.is_symlink() for parent in (f, *f.parents))}
    assert sorted(installed_name(f) for f in folders) == sorted(
        PROJECT["tool"]["setuptools"]["packages"]
    )


def test_links_for_editors_point_to_the_folders_beside_them() -> None:
    for name in MOVED:
        link = REPOSITORY / "fsm" / name
        assert link.is_symlink(), name
        assert link.resolve() == REPOSITORY / name


@pytest.mark.parametrize("name", ["datasets", "renderers", "viewer"])
def test_bare_import_from_the_checkout_is_refused(name: str) -> None:
    done = run(f"import {name}", REPOSITORY)
    assert f"import this package as fsm.{name}" in done.stderr


def test_installed_names_resolve_from_anywhere_and_importing_fsm_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, fsm; print('torch' in sys.modules); import fsm.datasets, fsm.renderers, "
        "fsm.viewer"
    )
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def test_files_and_functions_stay_readable() -> None:
    """At most 400 lines a file, 60 a function, 100 columns a line."""
    long = []
    for path in SOURCES:
        lines = path.read_text().splitlines()
        if len(lines) > 400:
            long.append(f"{path.name}: {len(lines)} lines")
        # Comments for the type checker belong to their line, however long it gets.
        columns = [len(line.split("  # pyright:")[0]) for line in lines]
        long += [f"{path.name}:{n}: {c} columns" for n, c in enumerate(columns, 1) if c > 100]
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines_of = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines_of > 60:
                    long.append(f"{path.name}: {node.name} has {lines_of} lines")
    assert not long


def test_numbers_that_shape_results_live_in_configs() -> None:
    """A module has at most a dozen numbers of its own; more of them are a config."""
    many = {}
    for path in SOURCES:
        names = [
            target.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, (int, float))
        ]
        if len(names) > 12:
            many[path.name] = len(names)
    assert not many


@pytest.mark.slow
def test_wheel_holds_the_package_its_presets_and_its_weights_and_nothing_else(
    tmp_path: Path,
) -> None:
    # From a copy: setuptools keeps build/ between runs, and files that were deleted since would
    # slip into the wheel.
    clean, listed = (
        tmp_path / "clean",
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    )
    for name in subprocess.run(
        listed, cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.split("\0"):
        if name and (REPOSITORY / name).exists():
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, clean / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(clean)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {
        "fsm",
        f"fsm_toolkit-{fsm.__version__}.dist-info",
    }
    for expected in (
        "fsm/py.typed",
        "fsm/datasets/base.py",
        "fsm/configs/tiny.yaml",
        "fsm/ttt/reference.py",
    ):
        assert expected in names
    assert {f"fsm/configs/{p.name}" for p in (REPOSITORY / "configs").glob("*.yaml")} <= set(names)
    modules = {f"fsm/{p.relative_to(REPOSITORY).as_posix().removeprefix('fsm/')}" for p in SOURCES}
    assert {n for n in names if n.endswith(".py")} == modules
    assert "fsm/weights/fsm-tiny/model.safetensors" in names
    assert len(names) == len(set(names))

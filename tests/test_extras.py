"""The core imports without the optional packages; what needs one says how to install it."""

import importlib.metadata
import subprocess
import sys

import pytest

import fsm
from tests.conftest import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

EXTRAS = ("viser", "websockets", "splines", "gsplat", "tensorboard", "matplotlib")

IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {blocked!r}:
    sys.modules[name] = None
import fsm
for module in pkgutil.walk_packages(fsm.__path__, "fsm."):
    if not module.name.startswith(("fsm.viewer", "fsm.__main__")):
        importlib.import_module(module.name)
print("imported")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_everything_but_the_viewer_imports_without_any_extra() -> None:
    done = run(IMPORT_ALL.format(blocked=EXTRAS))
    assert done.stdout.strip() == "imported", done.stderr


@pytest.mark.parametrize("missing", ["viser", "websockets", "splines"])
def test_viewing_without_the_viewer_extra_names_the_command(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from fsm.cli.main import main; sys.exit(main(['view', 'demo', '--port', '0']))"
    )
    done = run(code)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"error: {missing} not installed; run `pip install 'fsm-toolkit[viewer]'`, "
        "or `pip install -e '.[viewer]'` in a clone."
    )


def test_there_is_one_source_for_the_version() -> None:
    assert importlib.metadata.version("fsm-toolkit") == fsm.__version__
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]

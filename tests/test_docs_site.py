"""Pages that the site makes from other files; ``make docs`` builds all of it."""

import dataclasses
import importlib
import importlib.util
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("mkdocs", reason="the docs extra is not installed")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", REPOSITORY / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_page_has_every_flag_of_every_command(hooks: ModuleType) -> None:
    from fsm.cli.main import COMMANDS

    sections = hooks.command_page().split("\n## fsm ")[1:]
    assert [s.split()[0] for s in sections] == list(COMMANDS)
    for section, command in zip(sections, COMMANDS.values(), strict=True):
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert len(rows) == len(dataclasses.fields(command))
        assert all(len(row.replace("\\|", "").split("|")) == 5 for row in rows)


def test_every_module_of_the_api_pages_imports(hooks: ModuleType) -> None:
    modules = [name for names in hooks.packages().values() for name in names]
    assert {"fsm.views", "fsm.renderers.base", "fsm.datasets.open"} <= set(modules)
    for name in modules:
        if not name.startswith("fsm.viewer"):
            importlib.import_module(name)


@pytest.mark.parametrize(
    ("link", "source", "page", "expected"),
    [
        ("docs/data.md#which", "README.md", "index.md", "data.md#which"),
        ("../CONTRIBUTING.md", "docs/data.md", "data.md", "contributing.md"),
        ("../examples/01_reconstruct.py", "docs/a.md", "a.md", "examples/01_reconstruct.md"),
        ("../../../docs/depth.md", "fsm/weights/fsm-tiny/README.md", "models/x.md", "../depth.md"),
        ("https://arxiv.org/abs/1", "README.md", "index.md", "https://arxiv.org/abs/1"),
    ],
)
def test_links_follow_the_files(
    hooks: ModuleType, link: str, source: str, page: str, expected: str
) -> None:
    assert hooks.relinked(f"[word]({link})", source, page) == f"[word]({expected})"


def test_an_example_page_has_its_text_and_its_code(hooks: ModuleType) -> None:
    for path in hooks.examples():
        page = hooks.example_page(path)
        assert page.startswith(f"# {hooks.title(path)}\n")
        assert page.count("```python") == 1
        assert "def main(" in page

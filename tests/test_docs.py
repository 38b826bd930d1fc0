"""What a stranger reads: links lead somewhere, sentences are short, budgets hold."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
CARDS = sorted((REPOSITORY / "fsm" / "weights").glob("*/README.md"))
PAGES = [
    *sorted(p for p in DOCS.glob("*.md")),
    *(REPOSITORY / n for n in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *CARDS,
]
LINKED = [*PAGES, DOCS / "history" / "index.md", REPOSITORY / "benchmarks" / "README.md"]
WORDS_A_SENTENCE = 20
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def sentences(text: str) -> list[str]:
    """Sentences of a page's prose: no code, tables, headings or pictures; list items are apart."""
    text = CODE.sub("\n\n", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = LINK.sub(r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    kept = [line for line in text.splitlines() if not re.match(r"\s*(\||#|<)", line)]
    blocks = re.split(r"\n\s*\n|\n\s*(?:[*-]|\d+\.)\s", "\n" + "\n".join(kept))
    found = []
    for block in blocks:
        plain = " ".join(block.replace("*", "").split())
        found += re.split(r"(?<=[.!?:;])[)\"]*\s+(?=[A-Z(\d`λθ])", plain)
    return [s for s in found if len(s.split()) > 1]


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as Markdown renderers make them."""
    headings = re.findall(r"^#+\s+(.*)$", CODE.sub("", path.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", h.replace("`", "").lower()) for h in headings)
    return {re.sub(r"[-\s]+", "-", h.strip()) for h in plain}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_sentences_are_short(page: Path) -> None:
    found = sentences(page.read_text(encoding="utf-8"))
    if not found:  # tables alone
        return
    mean = sum(len(s.split()) for s in found) / len(found)
    longest = max(found, key=lambda s: len(s.split()))
    assert mean <= WORDS_A_SENTENCE, f"{mean:.1f} words a sentence; the longest: {longest}"


def test_a_page_of_long_sentences_would_be_seen() -> None:
    long = " ".join(["word"] * 30)
    page = f"# Title\n\n{long}. {long.capitalize()}.\n\n* Three words here. Two words"
    assert [len(s.split()) for s in sentences(page)] == [30, 30, 3, 2]


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for _, target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        known = file.is_relative_to(REPOSITORY) and file.exists()
        if not known or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_the_readme_fits_a_screen_or_two_and_keeps_its_promises() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile
    film = DOCS / "images" / "demo.webp"
    assert film.stat().st_size < 4_000_000


@pytest.mark.parametrize("card", CARDS, ids=named)
def test_model_cards_are_short_and_lie_beside_weights_alone(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    for heading in ("## Recipe", "## Data", "## Numbers", "## Limits"):
        assert heading in text
    files = {p.name for p in card.parent.iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors"}


def test_commands_in_the_docs_exist() -> None:
    from fsm.cli.main import COMMANDS

    unknown = set()
    for page in LINKED:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for name in re.findall(r"^fsm (\S+)", block, re.MULTILINE):
                if name not in COMMANDS and not name.startswith("-"):
                    unknown.add(f"{page.name}: fsm {name}")
            for name in re.findall(r"-m benchmarks\.(\w+)", block):
                if not (REPOSITORY / "benchmarks" / f"{name}.py").is_file():
                    unknown.add(f"{page.name}: benchmarks.{name}")
    assert not unknown


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_python_in_the_docs_parses_and_imports(page: Path) -> None:
    import importlib

    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fsm"):
                module = importlib.import_module(str(node.module))
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_the_ten_lines_of_the_first_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer, smaller frames than the page reads."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    changes = {
        '"demo"': '"world:1001"',
        "range(0, 60, 2)": "range(0, 60, 12), (32, 32)",
        "[25]": "[25], (32, 32)",
    }
    for old, new in changes.items():
        assert old in code
        code = code.replace(old, new)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["image"].shape == (1, 3, 32, 32)
    assert (tmp_path / "scene" / "scene.json").is_file()

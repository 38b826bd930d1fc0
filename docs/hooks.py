"""Pages that are made from other files when the site is built.

Examples, the notebook, the command line, the Python API, the model cards and the project's own
pages each have one source, which stays where a reader of the repository expects it. This file
needs neither torch nor the package: sources are read, never imported.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
COPIED = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "README.md": "index.md",
    "fsm/weights/fsm-tiny/README.md": "models/fsm-tiny.md",
    "fsm/weights/fsm-tiny-lrm/README.md": "models/fsm-tiny-lrm.md",
}
"""File of the repository to page of the site; README.md is a link target only."""
HIDDEN = re.compile(r"(^|\.)_|_kernels$|_cpu$|\.cli(\.|$)|__main__$")
"""Modules without a page: private ones, kernels, and commands, which have a page of their own."""
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def on_config(config: Any) -> Any:
    """Fill the two sections of the navigation that depend on files."""
    for section in config["nav"]:
        if "Examples" in section:
            section["Examples"] = [{title(p): f"examples/{p.stem}.md"} for p in examples()]
            section["Examples"].append({"Notebook": "examples/quickstart.md"})
        for entry in section.get("Reference", []):
            if "Python API" in entry:
                entry["Python API"] = [{p: f"reference/api/{p}.md"} for p in packages()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages made from other files."""
    made = {f"examples/{p.stem}.md": example_page(p) for p in examples()}
    made["examples/quickstart.md"] = notebook_page(ROOT / "examples" / "quickstart.ipynb")
    made["reference/cli.md"] = command_page()
    for package, modules in packages().items():
        made[f"reference/api/{package}.md"] = api_page(package, modules)
    for source, page in COPIED.items():
        if page != "index.md":
            made[page] = relinked((ROOT / source).read_text(encoding="utf-8"), source, page)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page in docs/ to files outside it lead to the pages made from those."""
    if page.file.generated_by is not None:
        return markdown
    return relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def relinked(text: str, source: str, page: str) -> str:
    """``text`` of the file ``source`` with its relative links as they are from ``page``."""

    def replaced(match: re.Match[str]) -> str:
        before, target, anchor, after = match[1], match[2], match[3] or "", match[4]
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = (ROOT / source).parent.joinpath(target).resolve()
        if not path.is_relative_to(ROOT):
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        if name in COPIED:
            to = COPIED[name]
        elif name.startswith("examples/") and path.suffix in (".py", ".ipynb"):
            to = f"examples/{path.stem}.md"
        elif name.startswith("docs/"):
            to = name.removeprefix("docs/")
        else:
            return match[0]
        ups = "../" * page.count("/")
        return f"{before}{ups}{to}{anchor}{after}"

    return LINK.sub(replaced, text)


def examples() -> list[Path]:
    """The examples in their order."""
    return sorted((ROOT / "examples").glob("[0-9]*.py"))


def title(path: Path) -> str:
    """First line of an example's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem).split(
        "\n", 1
    )[0]


def example_page(path: Path) -> str:
    """An example's text, how to run it, and its code."""
    source = path.read_text(encoding="utf-8")
    head, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    code = source.split('"""', 2)[2].lstrip()
    run = f"```bash\npython examples/{path.name} --help\n```"
    return f"# {head}\n{text}\n\n{run}\n\n```python\n{code}```\n"


def notebook_page(path: Path) -> str:
    """A notebook's cells as text and code."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([*parts, "The notebook itself is `examples/quickstart.ipynb`."]) + "\n"


def packages() -> dict[str, list[str]]:
    """Every public package with its public modules, in the order of their names."""
    found: dict[str, list[str]] = {}
    for top, prefix in (
        ("fsm", ""),
        ("renderers", "fsm."),
        ("datasets", "fsm."),
        ("viewer", "fsm."),
    ):
        for path in sorted((ROOT / top).rglob("*.py")):
            inside = path.relative_to(ROOT)
            if any((ROOT / parent).is_symlink() for parent in inside.parents):
                continue
            parts = inside.with_suffix("").parts
            name = prefix + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            package = prefix + ".".join(parts[:-1])
            if HIDDEN.search(name) or not _has_text(path):
                continue
            if parts[-1] != "__init__":
                found.setdefault(package, []).append(name)
    return dict(sorted(found.items()))


def api_page(package: str, modules: list[str]) -> str:
    """References to all modules of a package."""
    body = "\n\n".join(f"::: {module}" for module in modules)
    return f"# {package}\n\n{body}\n"


def _has_text(path: Path) -> bool:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is not None


def command_page() -> str:
    """Every command with its flags, as ``fsm COMMAND --help`` lists them."""
    main = ast.parse((ROOT / "fsm/cli/main.py").read_text(encoding="utf-8"))
    homes: dict[str, str] = {}
    commands: dict[str, str] = {}
    for node in ast.walk(main):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fsm.cli."):
            homes |= {a.name: str(node.module) for a in node.names}
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "COMMANDS":
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                commands[ast.literal_eval(key)] = ast.unparse(value)  # pyright: ignore[reportArgumentType]
    parts = [
        "# Command line",
        "`fsm COMMAND --help` prints the same. Exit status 0 means done, 1 is a command's own "
        "verdict, 2 means bad input. `--debug` shows the traceback of an error.",
    ]
    for name, cls in commands.items():
        source = (ROOT / (homes[cls].replace(".", "/") + ".py")).read_text(encoding="utf-8")
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and node.name == cls:
                parts += _command(name, node)
    return "\n\n".join(parts) + "\n"


def _command(name: str, cls: ast.ClassDef) -> list[str]:
    flags, words = [], [f"fsm {name}"]
    for field, after in zip(cls.body, [*cls.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        kind = ast.unparse(field.annotation)
        help_ = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            help_ = " ".join(str(after.value.value).split()).replace("|", "\\|")
        value, default = _value(field.annotation), _default(field)
        flag = ast.unparse(field.target).replace("_", "-")
        if "Positional" in kind:
            words.append(value)
            flags.append((f"`{value}`", help_, default))
        else:
            short = f"{_short(field.annotation)}--{flag} {value}".strip()
            flags.append((f"`{short}`", help_, default))
    rows = [f"| {a.replace('|', chr(92) + '|')} | {b} | {c} |" for a, b, c in flags]
    table = "\n".join(["| flag | | default |", "|---|---|---|", *rows])
    text = " ".join((ast.get_docstring(cls) or "").split())
    return [f"## fsm {name}", text, f"```\n{' '.join(words)}\n```", table]


def _value(annotation: ast.expr) -> str:
    """What a flag's value is called."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "flag":
            return str(ast.literal_eval(node.args[0]))
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            return "|".join(str(v) for v in ast.literal_eval(_tuple(node.slice)))
    return "" if ast.unparse(annotation) == "bool" else ast.unparse(annotation).upper()


def _short(annotation: ast.expr) -> str:
    """A flag's short name, such as "-o, "; empty where it has none."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.keyword) and node.arg == "short":
            return f"{ast.literal_eval(node.value)}, "
    return ""


def _default(field: ast.AnnAssign) -> str:
    """A flag's default in words, else its value."""
    for node in ast.walk(field.annotation):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "flag" and len(node.args) > 1:
            try:
                return str(ast.literal_eval(node.args[1]))
            except ValueError:
                return ""
    if field.value is None:
        return ""
    text = re.sub(r"^Path[(](.*)[)]$", r"\1", ast.unparse(field.value)).replace("'", "")
    return "off" if text == "False" else f"`{text}`"


def _tuple(node: ast.expr) -> ast.expr:
    return node if isinstance(node, ast.Tuple) else ast.Tuple([node], ast.Load())

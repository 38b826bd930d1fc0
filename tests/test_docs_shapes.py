"""Every public function says the shapes of its tensors: by its annotations or in its docstring."""

import ast
import re
from pathlib import Path

from tests.test_packaging import SOURCES

BARE = re.compile(r"\b(?:torch\.)?Tensor\b|\bnp\.ndarray\b|\bndarray\b")
SHAPED = re.compile(r"\b[A-Z][A-Za-z0-9]*\[(?:torch\.|np\.)?(?:Tensor|ndarray), '[^']*'\]")
NAMED = re.compile(r"\bdict\[str, (?:torch\.)?Tensor\]")
"""State dicts: each name has a shape of its own."""
IN_WORDS = re.compile(r"\[[^\]]*\]|scalar|shape", re.IGNORECASE)


def public_functions(path: Path) -> list[tuple[str, ast.FunctionDef]]:
    """Functions and methods of a module whose names, and whose classes' names, are public."""
    found = []

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found.append((prefix + node.name, node))

    walk(ast.parse(path.read_text()).body, "")
    return found


def unshaped(function: ast.FunctionDef) -> list[str]:
    """Arguments, and "return", that are tensors without a shape."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotated = [(a.arg, a.annotation) for a in arguments] + [("return", function.returns)]
    return [
        name
        for name, annotation in annotated
        if annotation is not None
        and BARE.search(NAMED.sub("", SHAPED.sub("", ast.unparse(annotation))))
    ]


def missing(path: Path) -> list[str]:
    """Public functions of a module whose docstring is silent about such tensors."""
    return [
        f"{path.name}: {name} ({', '.join(tensors)})"
        for name, function in public_functions(path)
        if (tensors := unshaped(function))
        and not IN_WORDS.search(ast.get_docstring(function) or "")
    ]


def test_public_functions_state_the_shapes_of_tensors() -> None:
    kernels = re.compile(r"_kernels$|_cpu$")  # behind the public twin, whose shapes are theirs
    found = [line for p in SOURCES if not kernels.search(p.stem) for line in missing(p)]
    assert not found, "\n".join(found)


def test_a_bare_tensor_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('def f(x: Tensor) -> Float[Tensor, "n 3"]:\n    """Of x."""\n')
    assert missing(path) == ["module.py: f (x)"]
    path.write_text('def f(x: Tensor) -> Float[Tensor, "n 3"]:\n    """Of x [n 3]."""\n')
    assert missing(path) == []
    path.write_text('def f(x: Float[Tensor, " n"] | None) -> None:\n    """Of x."""\n')
    assert missing(path) == []
    path.write_text('class A:\n    def _f(self, x: Tensor) -> Tensor:\n        """Private."""\n')
    assert missing(path) == []

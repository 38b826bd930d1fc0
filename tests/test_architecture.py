"""No circle of imports: not between modules, and not between the parts of any package."""

import grimp
import pytest

GRAPH = grimp.build_graph("fsm", cache_dir=None)
PACKAGES = sorted({m.rsplit(".", 1)[0] for m in GRAPH.modules if "." in m})


def arrows_between_parts(package: str) -> dict[str, set[str]]:
    """Which parts of a package import which: its modules and sub-packages, each with its inside."""
    below = sorted(m for m in GRAPH.modules if m.startswith(f"{package}."))
    depth = package.count(".") + 2
    part = {m: ".".join(m.split(".")[:depth]) for m in below}
    arrows: dict[str, set[str]] = {p: set() for p in part.values()}
    for module in below:
        for imported in GRAPH.find_modules_directly_imported_by(module):
            if imported in part and part[imported] != part[module]:
                arrows[part[module]].add(part[imported])
    return arrows


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The parts that lie on circles, or between two of them."""
    left = {name: set(targets) for name, targets in arrows.items()}
    while True:
        imported = {target for targets in left.values() for target in targets}
        kept = {n: {t for t in ts if t in left} for n, ts in left.items() if n in imported}
        kept = {name: targets for name, targets in kept.items() if targets}
        if kept == left:
            return sorted(left)
        left = kept


@pytest.mark.parametrize("package", PACKAGES)
def test_parts_of_a_package_import_one_another_in_one_direction(package: str) -> None:
    assert not circle(arrows_between_parts(package))


def test_a_planted_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]

"""The house stands as `docs/architecture.md` says: nothing points up, no circles, every door opens."""

import ast
import re
from importlib import import_module
from pathlib import Path

import networkx as nx
import pytest

import veracausa
from veracausa.doors import DOORS

HOME = Path(veracausa.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
GROUND = 1


def floors() -> dict[str, int]:
    """Package or module of the top level → its floor, as the page's table has it."""
    rows = re.findall(r"^\| (\d+) \| ((?:`\w+` ?)+)\|", PAGE.read_text(), re.M)
    return {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}


def modules() -> dict[str, Path]:
    """Dotted name (without `veracausa.`) → file; the face itself is `__init__`."""
    found = {}
    for path in HOME.rglob("*.py"):
        parts = path.relative_to(HOME).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "veracausa":
            below = node.module.removeprefix("veracausa").removeprefix(".")
            for name in node.names:
                full = f"{below}.{name.name}".removeprefix(".")
                found.add(full if full in known else below or "__init__")
        elif isinstance(node, ast.Import):
            found |= {n.name.removeprefix("veracausa.") for n in node.names if n.name.startswith("veracausa.")}
            found |= {"__init__" for n in node.names if n.name == "veracausa"}
    return found


@pytest.fixture(scope="module")
def arrows() -> set[tuple[str, str]]:
    known = modules()
    return {(name, other) for name, path in known.items() for other in imports(path, known) if other != name}


def test_every_package_has_a_floor():
    assert {name.split(".")[0] for name in modules()} <= set(floors())


def test_nothing_points_up(arrows):
    at, top = floors(), lambda name: name.split(".")[0]
    up = [f"{a} → {b}" for a, b in sorted(arrows) if at[top(b)] > at[top(a)]]
    assert not up, up


def test_packages_of_one_floor_do_not_know_each_other(arrows):
    at, top = floors(), lambda name: name.split(".")[0]
    across = [
        f"{a} → {b}"
        for a, b in sorted(arrows)
        if at[top(a)] == at[top(b)] != GROUND and top(a) != top(b) and at[top(a)] != max(at.values())
    ]
    assert not across, across


def test_no_circles(arrows):
    circles = [sorted(found) for found in nx.strongly_connected_components(nx.DiGraph(arrows)) if len(found) > 1]
    assert not circles, circles


@pytest.mark.parametrize("door", DOORS)
def test_every_door_opens(door):
    module, _, function = DOORS[door].partition(":")
    assert callable(getattr(import_module(module), function))
    noun, _, verb = door.partition(".")
    users = [path for path in HOME.rglob("*.py") if f'through("{door}"' in path.read_text(encoding="utf-8")]
    assert users, f"nobody goes through {noun}.{verb}"


def test_the_tests_stand_as_the_source_does():
    """tests/a/b/test_c….py is about src/veracausa/a/b/: every folder of tests is a package of the source."""
    here = Path(__file__).parent
    for path in here.rglob("test_*.py"):
        folder = path.relative_to(here).parent
        assert folder.parts[:1] == ("helpers",) or (HOME / folder / "__init__.py").exists(), path

"""Everything that a public function returns can do the same: one protocol, run over a result of every kind."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import every_result
import numpy as np
import pandas as pd
import pytest
import torch

import veracausa as vc
from veracausa.causes.differences import Place
from veracausa.cost import Cost
from veracausa.opening import READERS

#: Kinds of results; `every_result` makes one of each.
KINDS = (
    "Scores", "Agreement", "Stability", "Receipt", "Circuit", "Faithfulness", "Curve", "Completeness", "Minimality",
    "CircuitTests", "CircuitStability", "Discovery", "Evaluation", "Disagreement", "Locations", "Responses", "Surface",
    "AblationStudy", "Against", "Baselines", "CounterfactualComparison", "GeneralPurpose", "HeadRoles", "Search",
    "OptimalConstants", "Steering", "Recovery", "Study", "Lens", "LogitAttribution",
    "Interactions", "CheckedInteractions", "Modules", "AttributionGraph", "GraphCheck", "Activations",
    "Quality", "PartCurve", "FeatureCircuit", "Attack", "CauseCurve", "Specificity", "Scoreboard",
    "Comparison", "CircuitComparison", "RemovalCurve", "PartRanking", "Sheaf", "Pruned",
)  # fmt: skip
#: Shown in notebooks as their page.
PAGED = ("Study", "Discovery", "Comparison", "CircuitComparison")
#: Made of other results, without a run of their own.
COSTLESS = {
    "Agreement", "Comparison", "CircuitComparison", "Stability", "Circuit", "CircuitStability", "Against", "Recovery",
    "Modules",
}  # fmt: skip
#: What a public function may return that is no result.
OTHERS = {
    "FeaturesFound",
    "Superposition",
    "Gated",
    "Bottleneck",
    "Compressed",
    "Decoder",
    "Model",
    "Task",
    "Check",
    "Dictionary",
    "Program",
    "Registers",
    "Metric",
    "Price",
    "Sweep",
    "Totals",
    "Plan",
}


@pytest.fixture(scope="module")
def made():
    return every_result.every_result()


def test_there_is_one_of_every_kind(made):
    assert set(made) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_it_is(made, kind):
    found = made[kind]
    assert isinstance(found, vc.Result)
    assert {"name", "source", "identity"} <= set(found.model) and {"name", "description", "digest"} <= set(found.task)
    assert isinstance(found.settings, dict)
    assert (found.cost is None) == (kind in COSTLESS)
    if kind not in COSTLESS:
        assert isinstance(found.cost, Cost) and found.cost.token_layers > 0
    table, said = found.table(), found.sentences
    assert isinstance(table, pd.DataFrame) and len(table) and table.columns.is_unique
    assert isinstance(said, tuple) and said and all(isinstance(one, str) and one.strip() == one for one in said)
    assert not re.search(r"\bnan\b|[{}]|[=(:] ?None\b", " ".join(said))
    assert isinstance(found.describe(), str) and found.describe()


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_notebook_it_is_text_and_a_table(made, kind):
    html = made[kind]._repr_html_()
    if kind in PAGED:  # the page in a frame, then the same as others
        frame, html = html.removesuffix("</details>").split("<details><summary>The same as text</summary>")
        assert frame.startswith(f'<iframe title="{kind}" sandbox="allow-scripts ')
        assert not re.search("[\"']", re.sub(r' \w+="[^"]*"', "", frame)), "the page lies within one attribute"
    assert html.startswith("<pre><code>") and html.count("<table") == 1 and html.count("<tr") <= 12
    tag = r'</?(pre|code|p|table|thead|tbody|tr|th|td)( border="0")?( class="dataframe"| style="text-align: right;")?>'
    outside = re.sub(tag, "", html)
    assert "<" not in outside, "nothing but text and a table"
    assert "://" not in re.sub(r">[^<]*<", "><", html) and "color" not in html  # the colours of the page around it


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_drawn_as_large_as_is_asked(made, kind):
    spec = made[kind].chart(width=250, height=150).to_dict()
    views = spec.get("concat", [spec])
    assert all(view["width"] == 250 and view["height"] == 150 for view in views) and spec["title"]


def same(one, other) -> bool:
    """Equal values, arrays and tensors bit for bit (NaN is NaN), objects field by field."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    if isinstance(other, Place):  # of a location a disagreement keeps what it says
        return (one.cause, one.sentence) == (other.cause, other.sentence)
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__
        )
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and same(torch.from_numpy(one), torch.from_numpy(other))
    return one == other or (one != one and other != other)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_opened_it_is_the_same(made, tmp_path, kind):
    found = made[kind]
    folder = kind in ("Discovery", "Study")
    text = kind in ("Circuit", "Recovery", "Modules", "Scoreboard")
    place = tmp_path / ("out" if folder else "file.json" if text else "file.safetensors")
    found.save(place)
    again = vc.open(place)
    assert type(again) is type(found)
    assert again.sentences == found.sentences and again.describe() == found.describe()
    pd.testing.assert_frame_equal(again.table(), found.table())
    assert again.cost == found.cost and same(again.model, found.model) and same(again.task, found.task)
    for name in found.__dataclass_fields__:
        assert same(getattr(found, name), getattr(again, name)), name


def public() -> dict[str, object]:
    """ "vc.causes.locate" → the function, of the face and of its packages."""
    found: dict[str, object] = {}
    for package in ("", *vc._PACKAGES):
        module = importlib.import_module(f"veracausa.{package}".rstrip("."))
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.isfunction(value):
                found[f"vc.{package}.{name}".replace("..", ".")] = value
    return found


def returned(function) -> set[str]:
    """Names of our classes in a function's return annotation."""
    said = inspect.signature(function).return_annotation
    tree = ast.parse(said if isinstance(said, str) else getattr(said, "__name__", "None"))
    known = inspect.unwrap(function).__globals__
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    ours = {name for name in names if getattr(known.get(name), "__module__", "").startswith("veracausa")}
    return ours | {name for name in names if name in KINDS}


def test_every_public_function_returns_a_result_that_is_exported():
    given = {name for package in ("", *vc._PACKAGES) for name in _exported(package)}
    seen: set[str] = set()
    for name, function in public().items():
        for kind in returned(function):
            assert kind in OTHERS or kind in KINDS, f"{name} returns a {kind}, which is no result"
            assert kind in given, f"{name} returns a {kind}, which no package gives out"
            seen.add(kind)
    assert len(seen) > 20


def _exported(package: str) -> list[str]:
    return list(getattr(importlib.import_module(f"veracausa.{package}".rstrip(".")), "__all__", ()))


def test_every_reader_is_one_that_a_result_needs(made, tmp_path):
    """Every format that can be opened is that of a result, a task or a sweep, and the other way round."""
    assert len(READERS) == len(KINDS) + 2  # a task, and a sweep's folder
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(vc.__file__).parent.rglob("*.py"))
    assert all(source.count(f'"{kind}"') >= 2 or "folder" in kind for kind in READERS)

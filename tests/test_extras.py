"""A plain install answers the first questions; what needs more says which extra brings it, before it starts."""

import ast
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest
from processes import python

from veracausa.circuits.exchange.graphml import read_graphml
from veracausa.errors import ExtraError
from veracausa.extras import EXTRAS, require_extra

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Package → the name under which it is imported, where these differ.
IMPORTED = {"vl-convert-python": "vl_convert"}
#: Of a cluster: large, and of no use on one machine, so that it comes only where it is asked for.
APART = {"ray"}
ABSENT = sorted(module for modules, _ in EXTRAS.values() for module in modules)


def modules_of(requirements):
    names = [requirement.split(">=")[0].split("==")[0] for requirement in requirements]
    return {IMPORTED.get(name, name) for name in names}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_the_modules_that_it_says(extra):
    assert modules_of(PROJECT["optional-dependencies"][extra]) == set(EXTRAS[extra][0])
    every = PROJECT["optional-dependencies"]["all"][0].removeprefix("veracausa[").removesuffix("]").split(",")
    assert (extra in every) == (extra not in APART)
    if extra in every:
        require_extra(extra)  # the tests' own environment has them


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_one_is_said_with_the_line_that_installs_it(extra, monkeypatch):
    first = EXTRAS[extra][0][0]
    monkeypatch.setattr("veracausa.extras.find_spec", lambda name: None if name == first else importlib.util.find_spec)
    with pytest.raises(ExtraError, match=rf"\({first}\): pip install 'veracausa\[{extra}\]'$"):
        require_extra(extra)


def test_the_readme_names_every_extra():
    shown = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`\[(\w+)\]`", shown)) == set(EXTRAS)


def test_nothing_required_belongs_to_an_extra():
    assert not modules_of(PROJECT["dependencies"]) & set(ABSENT)


def test_shapes_in_annotations_are_for_type_checkers_only():
    """jaxtyping is imported under `if TYPE_CHECKING:`, and so nowhere at run time: a plain install has none."""
    users = 0
    for path in (Path(__file__).parents[1] / "src").rglob("*.py"):
        if "jaxtyping" not in (text := path.read_text(encoding="utf-8")):
            continue
        tree = ast.parse(text)
        checked = [one for one in tree.body if isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING"]
        allowed = {id(node) for block in checked for node in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)) and "jaxtyping" in ast.unparse(node):
                users += 1
                assert id(node) in allowed, path
    assert users > 50 and "jaxtyping" not in modules_of(PROJECT["dependencies"])


#: Torch and transformers have brought what they need, and no extra is installed.
BEFORE = """
import contextlib, io, json, sys
absent = "accelerate", "altair", "gguf", "jaxtyping", "pyarrow", "sklearn", "vl_convert"
sys.modules.update(dict.fromkeys(absent))
import veracausa as vc
import tiny_models, word_tokenizer
words = word_tokenizer.word_tokenizer(["one", "two", "three", "four"])
lm = vc.load(tiny_models.make("llama", seed=1), tokenizer=words)
task = vc.task(lm, clean=["one two three"], corrupted=["one four three"], correct=[" two"], incorrect=[" four"])
"""
FIRST = """
exact = vc.exact(lm, task, units="heads", show_progress=False)
exact.save("exact.safetensors")
atp = vc.attribute(lm, task, units="heads", show_progress=False)
print(len(exact.top(3)), vc.agreement(atp, vc.open("exact.safetensors")).method)
receipt = vc.verify(lm, task, atp, top=1, sample=1, show_progress=False)
edges = vc.attribute(lm, task, units="edges", method="eap-ig", show_progress=False)
print(vc.faithfulness(lm, task, vc.select(edges, n=9), show_progress=False).edges <= 9)
"""
#: Extra → a call that needs it.
CALLS = {
    "charts": "vc.exact(lm, task, show_progress=False).chart()",
    "gguf": "vc.load('smollm2-135m', cache_dir='empty')",
    "parquet": "vc.task(lm, 'pairs.parquet')",
}
CALL = """
try:
    {call}
except vc.errors.ExtraError as error:
    print(error)
"""
COMMAND = """
sys.argv = ["veracausa", "{command}", "ioi", "--model", "no-such-model"]
from veracausa.cli.app import main
try:
    with contextlib.redirect_stderr(sys.stdout):
        main()
except SystemExit as stopped:
    print(stopped.code)
"""
WITH_PAGES = ("study", "compare", "discover", "evaluate")
PROGRAMS = (
    {"first": FIRST}
    | {extra: CALL.format(call=call) for extra, call in CALLS.items()}
    | {command: COMMAND.format(command=command) for command in WITH_PAGES}
)
ALL = """
said = {{}}
for name, program in {programs!r}.items():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(program, dict(globals()))
    said[name] = printed.getvalue()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each program prints without extras, one after the other in one process, since its start takes seconds."""
    folder = tmp_path_factory.mktemp("extras")
    (folder / "pairs.parquet").write_bytes(b"PAR1")
    code, path = BEFORE + ALL.format(programs=PROGRAMS), os.pathsep.join(sys.path)
    found = json.loads(python(code, cwd=folder, env={"PYTHONPATH": path}).splitlines()[-1])
    assert not list(folder.rglob("*.gguf"))  # nothing was fetched
    return found


def test_the_first_questions_need_no_extra(said):
    assert said["first"].split() == ["3", "atp", "True"]


@pytest.mark.parametrize("extra", CALLS)
def test_what_needs_an_extra_says_so(said, extra):
    assert said[extra].strip().endswith(f"pip install 'veracausa[{extra}]'")


@pytest.mark.parametrize("command", WITH_PAGES)
def test_a_command_that_ends_with_a_page_asks_for_charts_first(said, command):
    told, stopped = said[command].splitlines()
    assert told.startswith("ExtraError: ") and told.endswith("pip install 'veracausa[charts]'") and stopped == "1"


def test_graphs_need_an_extra(monkeypatch):
    monkeypatch.setattr("veracausa.extras.find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"GraphML files needs .*pip install 'veracausa\[graphs\]'"):
        read_graphml("circuit.graphml")

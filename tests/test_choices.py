"""Words of `choices` are those of the tables; type checkers refuse others; calls with others say what there is."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import veracausa as vc
from veracausa import choices
from veracausa.circuits.attacks.budgets import BUDGETS, GOALS, STARTS
from veracausa.circuits.known import _MADE
from veracausa.circuits.quality.minimality import _PARTS
from veracausa.circuits.scoreboards.columns import PARTS
from veracausa.circuits.selection.acdc import ORDERS
from veracausa.circuits.selection.iterated import RANKED_BY
from veracausa.circuits.selection.ways import HOW
from veracausa.circuits.sheaves.finding import STAGES
from veracausa.discovery.ways import SCORED_BY
from veracausa.engine.passages import WAYS as BETWEEN
from veracausa.estimates.learned.gates import GATES
from veracausa.estimates.learned.learner import AIMS, HOLDS, LEARNERS, SIZES
from veracausa.estimates.learned.losses import LOSSES, MASK_LOSSES
from veracausa.estimates.learned.ways import LEARNED_BY
from veracausa.estimates.parts import COMBINATIONS, PATHS, RULES
from veracausa.estimates.paths.grids import GRIDS
from veracausa.estimates.presets import EDGE_PRESETS, ESTIMATES
from veracausa.ground_truth.recovered import RANKINGS
from veracausa.interplay.clustering import WEIGHTS
from veracausa.interplay.interacting import METHODS, MODES, REPLACED
from veracausa.pruning.names import ABLATIONS as CUT_ABLATIONS
from veracausa.pruning.names import RANKINGS as MEASURES
from veracausa.report.charts.theme import THEMES
from veracausa.scores.estimands import ABLATIONS, BASELINES, DIRECTIONS, RESTORED, TWO_ABLATIONS
from veracausa.studies.levels import LEVELS
from veracausa.tasks.aligned import ALIGNED
from veracausa.tasks.columns import UNEQUAL
from veracausa.tasks.metrics import COMBINED, METRICS
from veracausa.tasks.references import PROMPTS
from veracausa.tasks.registry import BUILTIN
from veracausa.units.kinds import KINDS
from veracausa.units.unit_names import ALL_CELLS

#: Kinds that are at one position each.
CARRIED = [kind for kind, one in KINDS.items() if one.carried]
KINDS_AND_EDGES = (*KINDS, "edges")
TABLES = {
    "Direction": DIRECTIONS,
    "Ablation": ABLATIONS,
    "Baseline": BASELINES,
    "TwoAblations": TWO_ABLATIONS,
    "MetricName": METRICS,
    "AllUnits": (
        *(kind for kind in KINDS_AND_EDGES if kind not in CARRIED),
        *(f"{kind}@positions" for kind in KINDS_AND_EDGES),
        *(f"{kind}@spans" for kind in KINDS if kind not in CARRIED),
        ALL_CELLS,
    ),
    "Estimate": ({*ESTIMATES, *EDGE_PRESETS, "ifr"} - {"mask"}),  # `vc.estimates.learn_mask` has a call of its own
    "EdgeScoring": SCORED_BY,
    "PathName": PATHS,
    "RuleName": RULES,
    "Combination": COMBINATIONS,
    "GridName": GRIDS,
    "Selection": (*HOW, "iterated"),
    "EdgeRanking": {way.by for way in HOW.values()},
    "IteratedBy": RANKED_BY,
    "Ranking": RANKINGS,
    "Loss": LOSSES,
    "WriterOrder": ORDERS,
    "LearnedBy": LEARNERS,
    "GateName": GATES,
    "GateHold": HOLDS,
    "MaskLoss": MASK_LOSSES,
    "MaskAim": AIMS,
    "SheafBy": STAGES,
    "BudgetSizes": SIZES,
    "CircuitParts": _PARTS,
    "AttackBudget": BUDGETS,
    "BoardPart": tuple(PARTS),
    "AttackGoal": GOALS,
    "AttackStart": STARTS,
    "PublishedCircuit": _MADE,
    "CutRanking": MEASURES,
    "CutAblation": CUT_ABLATIONS,
    "Unequal": UNEQUAL,
    "Align": ALIGNED,
    "PairPrompts": PROMPTS,
    "Restored": RESTORED,
    "Over": COMBINED,
    "Look": THEMES,
    "InteractionMethod": METHODS,
    "InteractionWay": BETWEEN,
    "InteractionAblation": REPLACED,
    "ProductMode": MODES,
    "EdgeWeight": WEIGHTS,
    "LevelName": LEVELS,
    "TaskName": BUILTIN,
    "IoiCorruption": vars(sys.modules["veracausa.tasks.ioi"])["CORRUPTIONS"],
    "GreaterThanCorruption": vars(sys.modules["veracausa.tasks.greater_than"])["CORRUPTIONS"],
    "InductionCorruption": vars(sys.modules["veracausa.tasks.induction"])["CORRUPTIONS"],
    "DocstringCorruption": vars(sys.modules["veracausa.tasks.docstring"])["CORRUPTIONS"],
    "ColouredObjectsCorruption": vars(sys.modules["veracausa.tasks.coloured_objects"])["CORRUPTIONS"],
    "MultipleChoiceCorruption": vars(sys.modules["veracausa.tasks.multiple_choice"])["CORRUPTIONS"],
    "ArithmeticCorruption": vars(sys.modules["veracausa.tasks.arithmetic"])["CORRUPTIONS"],
    "FactualRecallCorruption": vars(sys.modules["veracausa.tasks.factual_recall"])["CORRUPTIONS"],
    "NegationCorruption": vars(sys.modules["veracausa.tasks.negation"])["CORRUPTIONS"],
    "SentimentCorruption": vars(sys.modules["veracausa.tasks.sentiment"])["CORRUPTIONS"],
}


def test_every_type_has_its_table():
    types = {name for name, type_ in vars(choices).items() if get_origin(type_) is Literal}
    assert types == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_words_are_those_of_the_table(name):
    words = get_args(getattr(choices, name))
    assert len(set(words)) == len(words)
    assert set(words) == set(TABLES[name])


def test_every_learner_is_described():
    assert set(LEARNED_BY) == set(LEARNERS)


def test_defaults_are_among_the_words():
    seen = 0
    for home in (vc, vc.effects, vc.estimates, vc.circuits, vc.causes, vc.counterfactuals, vc.behaviour, vc.tasks):
        for name in home.__all__:
            if inspect.isfunction(function := getattr(home, name)):
                for parameter in inspect.signature(function).parameters.values():
                    first = str(parameter.annotation).split(" |")[0]
                    if first in TABLES and isinstance(parameter.default, str):
                        assert parameter.default in TABLES[first], (name, parameter.name)
                        seen += 1
    assert seen > 30


RIGHT = """
import veracausa as vc
lm = vc.load("smollm2-135m")
task = vc.tasks.ioi(lm, corruption="abc", metric="prob")
vc.exact(lm, task, units=["a0.h0"], ablation="mean", direction="noising")
vc.attribute(lm, task, units="edges", method="eap-ig", baseline="corrupted", grid="gauss")
vc.attribute(lm, task, method=vc.Method(path="inputs", combine="increments", grid="gauss"))
found = vc.discover(lm, task, method="iterated", how="connected", by="importance")
vc.forecast(vc.exact, lm, task, ablation="zero")
"""
#: Every line is wrong in one word.
WRONG = """
vc.exact(lm, task, ablation="nonsense")
vc.exact(lm, task, direction="noisin")
vc.attribute(lm, task, method="eap-gi")
vc.attribute(lm, task, grid="gaus")
vc.Method(path="input")
vc.tasks.ioi(lm, metric="logitdiff")
vc.tasks.ioi(lm, corruption="swop")
vc.discover(lm, task, how="connect")
vc.select(found.scores, n=3, by="abs")
vc.circuits.learn(lm, task, how="topk")
vc.circuits.acdc(lm, task, tau=0.1, order="last")
vc.circuits.minimality(lm, task, found.circuit, parts="heads")
vc.behaviour.ablation_study(lm, task, units="heads", ablations=["zeros"])
found.scores.top(5, by="mean")
vc.study(lm, task, level="fast")
vc.exct(lm, task)
vc.effects.shaply(lm, task)
"""


#: Only the project's own files are read: the libraries under it say nothing of these words.
SETTINGS = """
[mypy]
ignore_missing_imports = true
follow_imports = silent
[mypy-torch.*,transformers.*,numpy.*,scipy.*,pandas.*,altair.*,jaxtyping.*,typer.*,rich.*,safetensors.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_mypy_refuses_other_words(tmp_path):
    """One run of mypy on calls that are right, then on calls that are wrong in a word each."""
    file, settings = tmp_path / "asked.py", tmp_path / "mypy.ini"
    file.write_text(RIGHT + WRONG.lstrip())
    settings.write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(tmp_path / "cache")]
    told = subprocess.run([*command, str(file)], capture_output=True, text=True, cwd=Path(vc.__file__).parents[1])
    wrong = [int(line.split(":")[1]) for line in told.stdout.splitlines() if ": error:" in line]
    first = len(RIGHT.splitlines()) + 1
    assert wrong == list(range(first, first + len(WRONG.strip().splitlines()))), told.stdout + told.stderr

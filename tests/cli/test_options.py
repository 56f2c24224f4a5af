"""One option, one name, one type, one default, one help text, in every command; all of it from the library's tables."""

import inspect
from typing import get_args

import pytest
from processes import python, shell
from typer.main import get_command
from typer.testing import CliRunner

import veracausa as vc
from veracausa.behaviour.study import ablation_study
from veracausa.circuits.attacks.budgets import BUDGETS, GOALS, STARTS
from veracausa.circuits.quality.curve import SIZES
from veracausa.circuits.scoreboards.columns import PARTS
from veracausa.circuits.selection.ways import HOW
from veracausa.cli.app import app
from veracausa.cli.options import DTYPES
from veracausa.discovery.other_tasks import evaluate
from veracausa.discovery.ways import SCORED_BY
from veracausa.estimates.learned.ways import LEARNED_BY
from veracausa.estimates.presets import EDGE_PRESETS, ESTIMATES
from veracausa.loading.wheels import PACKAGED
from veracausa.pruning.names import KINDS as CUT_KINDS
from veracausa.pruning.names import RANKINGS as CUT_BY
from veracausa.receipts.verify import TAU
from veracausa.scores.estimands import ABLATIONS, BASELINES, DIRECTIONS, INSTEAD, RESTORED, UNLEARNED
from veracausa.tasks.metrics import METRICS
from veracausa.tasks.registry import BUILTIN, CORRUPTIONS
from veracausa.units.kinds import KINDS

COMMANDS = get_command(app).commands
#: (option, command) → what differs there, and why.
EXCEPTIONS = {
    ("model", "evaluate"): ("default", "the circuit's own model"),
    ("task", "evaluate"): ("kind", "the circuit's own task; elsewhere it is the first argument"),
    ("task", "dictionary"): ("kind", "the first argument is the dictionary"),
    ("seed", "evaluate"): ("default", "the seed after that of the circuit's pairs"),
    ("n", "ablate"): ("default", "a share of right answers takes many prompts, and each is cheap"),
    ("n", "study"): ("default", "that of the study's size"),
    ("out", "study"): ("default", "a page needs a folder"),
    ("out", "compare"): ("default", "a page needs a folder"),
    ("out", "discover"): ("default", "a page needs a folder"),
    ("units", "compare"): ("default help", "several kinds, and no names"),
    ("units", "ablate"): ("default help", "names only: no kind is ablated unit by unit and prompt by prompt"),
    ("units", "trace"): ("default help", "what is restored; no names"),
    ("units", "steer"): ("default help", "names only; default: those that have a vector"),
    ("positions", "discover"): ("help", "of edges; elsewhere of heads, by the key that they look at"),
    ("positions", "study"): ("help", "of the edges of its circuit"),
    ("tokens", "dla"): ("default", "of writes: the whole unembedding is read only where it is asked for"),
    ("ablation", "evaluate"): ("help", "edges of a circuit: nothing of one's own"),
    ("model", "adversary"): ("default", "the circuit's own model"),
    ("task", "adversary"): ("kind", "the circuit's own task"),
    ("seed", "adversary"): ("default", "the seed after that of the circuit's pairs"),
    ("ablation", "adversary"): ("help", "edges of a circuit: nothing of one's own"),
    ("model", "specificity"): ("default", "the circuits' own model"),
    ("draws", "specificity"): ("default help", "random circuits, not noise"),
    ("draws", "adversary"): ("default help", "random weights and circuits, not noise"),
    ("method", "interactions"): ("default help", "of interactions, not of effects"),
    ("ablation", "interactions"): ("help", "all sources at once: no donors, nothing learned"),
    ("method", "features"): ("default help", "of circuits of features: the paper's"),
    ("ablation", "features"): ("help", "no donors, nothing learned"),
    ("top", "interactions"): ("default", "of pairs: the library's own number"),
    ("sample", "interactions"): ("default", "of pairs: the library's own number"),
    ("n", "graph"): ("default", "a graph each: two show what they are like"),
    ("draws", "exact"): ("default help", "of noise alone; the library's own number"),
    ("method", "discover"): ("default help", "of edges, not of units"),
    ("top", "components"): ("default help", "components whose words are shown"),
    ("ablation", "components"): ("default help", "what a part of weights is replaced by: mostly nothing"),
    ("interactions", "study"): ("default type help", "a study's names two layers; components' counts the strongest"),
    ("top", "discover"): ("default", "of edges: the library's own number"),
    ("units", "prune"): ("default help", "kinds that can be cut"),
    ("how", "prune"): ("default help", "rankings of parts"),
    ("sizes", "prune"): ("help", "of parameters, not of edges"),
    ("ablation", "prune"): ("default help", "what becomes of weights: nothing or a bias"),
    ("sample", "discover"): ("default", "of edges: the library's own number"),
}


def options():
    """Name → command → what the option is there."""
    found = {}
    for name, command in COMMANDS.items():
        declared = inspect.signature(command.callback, eval_str=True).parameters
        for param in command.params:
            if param.name in declared:
                kind = set(get_args(get_args(declared[param.name].annotation)[0])) - {type(None)}
                found.setdefault(param.name, {})[name] = {
                    "kind": param.param_type_name,
                    "type": kind or {get_args(declared[param.name].annotation)[0]},
                    "default": param.default,
                    "help": param.help,
                    "flags": param.opts,
                }
    return found


def test_an_option_is_the_same_in_every_command():
    differing = {}
    for option, commands in options().items():
        usual = next(one for command, one in commands.items() if (option, command) not in EXCEPTIONS)
        for command, one in commands.items():
            if other := {fact for fact in one if one[fact] != usual[fact]}:
                differing[option, command] = other
    assert {where: set(what.split()) for where, (what, _) in EXCEPTIONS.items() if where[0] != "task"} == {
        where: other for where, other in differing.items() if where[0] != "task"
    }
    own = {where for where in differing if where[0] == "task"}
    assert own == {("task", "evaluate"), ("task", "adversary"), ("task", "dictionary")}
    assert all(differing[one] >= {"kind"} for one in own)


def test_shared_options_are_in_every_command_that_runs_a_model():
    model = {"model", "device", "dtype", "json"}
    pairs = {*model, "task", "n", "seed", "corruption", "digits", "metric"}
    kept = {*pairs, "out"}
    for commands, shared in {
        (
            "exact",
            "attribute",
            "ablate",
            "lens",
            "dla",
            "graph",
            "interactions",
            "trace",
            "steer",
            "study",
            "compare",
            "discover",
            "scoreboard",
            "prune",
        ): kept,
        ("task", "evaluate", "adversary", "dictionary"): pairs,
        ("check", "specificity"): model,
        ("open", "models", "tasks", "methods"): {"json"},
    }.items():
        for command in commands:
            assert shared <= {param.name for param in COMMANDS[command].params}, command


@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("exact", vc.exact),
        ("attribute", vc.attribute),
        ("attribute", vc.verify),
        ("ablate", ablation_study),
        ("trace", vc.effects.causal_tracing),
        ("lens", vc.reading.lens),
        ("dla", vc.reading.dla),
        ("interactions", vc.interactions),
        ("interactions", vc.interplay.check),
        ("study", vc.study),
        ("compare", vc.compare),
        ("discover", vc.discover),
        ("scoreboard", vc.circuits.scoreboard),
        ("specificity", vc.circuits.specificity),
        ("prune", vc.pruning.prune),
        ("evaluate", evaluate),
        ("adversary", vc.circuits.adversary),
    ],
)
def test_defaults_are_those_of_the_public_call(command, function):
    """Where both have an option of one name; `seed` and `out` are the setup's, lists are written with commas."""
    library = {name: one.default for name, one in inspect.signature(function).parameters.items()}
    own = {param.name: param.default for param in COMMANDS[command].params}
    shared = (own.keys() & library.keys()) - {"task", "seed", "out"}
    known = {"tau": TAU, "sizes": None}
    for name in shared:
        wanted = library[name]
        if wanted is inspect.Parameter.empty:
            continue
        wanted = known.get(name, wanted) if wanted in (None, SIZES) else wanted
        wanted = ",".join(map(str, wanted)) if isinstance(wanted, tuple) else wanted
        assert own[name] == wanted, (name, own[name], wanted)


@pytest.mark.parametrize(
    ("option", "commands", "names"),
    [
        ("model", ("exact", "check", "discover"), PACKAGED),
        ("task", ("exact", "study"), BUILTIN),
        ("metric", ("exact", "ablate"), METRICS),
        ("corruption", ("exact",), [kind for kinds in CORRUPTIONS.values() for kind in kinds]),
        ("units", ("exact", "attribute"), [*KINDS, "edges"]),
        ("units", ("compare",), KINDS),
        ("ablation", ("exact", "evaluate"), ABLATIONS),
        ("ablation", ("exact",), INSTEAD),
        ("units", ("trace",), RESTORED),
        ("ablations", ("ablate",), UNLEARNED),
        ("direction", ("exact", "attribute"), DIRECTIONS),
        ("method", ("attribute",), [*ESTIMATES, *(set(EDGE_PRESETS) - set(ESTIMATES))]),
        ("method", ("discover",), SCORED_BY),
        ("rankings", ("scoreboard",), [*SCORED_BY, "random"]),
        ("parts", ("scoreboard",), PARTS),
        ("learner", ("attribute",), LEARNED_BY),
        ("budgets", ("adversary",), BUDGETS),
        ("goals", ("adversary",), GOALS),
        ("starts", ("adversary",), STARTS),
        ("methods", ("compare",), ESTIMATES),
        ("baseline", ("attribute",), BASELINES),
        ("how", ("discover",), HOW),
        ("how", ("prune",), CUT_BY),
        ("units", ("prune",), CUT_KINDS),
    ],
)
def test_help_and_completion_name_everything_that_can_be_given(option, commands, names):
    for command in commands:
        param = next(one for one in COMMANDS[command].params if one.name == option)
        assert [name for name in names if name not in param.help] == []
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
        offered = {item.value for item in param.shell_complete(None, "")}
        assert [name for name in names if name not in offered] == []


def test_every_precision_that_help_names_can_be_loaded():
    from veracausa.loading.asked import dtype_of

    assert all(dtype_of(name) is not None for name in DTYPES)


def test_help_needs_no_heavy_library():
    code = (
        "import functools, sys, typer.main; from veracausa.cli.app import main; asked = sys.argv[1:]\n"
        "typer.main.get_command = functools.cache(typer.main.get_command)  # commands are made once\n"
        "for words in ([], *([name] for name in asked)):\n"
        "    sys.argv = ['veracausa', *words, '--help']\n"
        "    try: main()\n    except SystemExit as end: assert not end.code\n"
        "    assert not {'torch', 'transformers', 'pandas', 'numpy'} & {*sys.modules}, words\n"
    )
    assert python(code, *COMMANDS).count("Usage: veracausa") == 1 + len(COMMANDS)


def test_a_command_alone_is_read():
    """Of a help text, too: reading and making the others would take as long again."""
    code = (
        "import sys; from veracausa.cli.app import main, Group; sys.argv = ['veracausa', 'models', '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "print({name for name, one in Group.deferred.items() if 'made' in vars(one)})\n"
        "assert 'veracausa.cli.effects' not in sys.modules"
    )
    assert python(code).splitlines()[-1] == "{'models'}"


def test_help_fits_a_terminal_and_groups_options():
    lines = shell("attribute", "--help", env={"COLUMNS": "100"}).stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if line.endswith("-")]  # a name is one word
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Arguments:", "Options:", "Receipt:", "Pairs:", "Model:", "Output:"]

"""Plans: lists multiply, and what no sweep could do is refused in words before anything is loaded."""

import inspect

import pytest

import veracausa as vc
from veracausa.behaviour.study import ablation_study
from veracausa.errors import FileError, MethodError, TaskError
from veracausa.sweeps import plan_of
from veracausa.sweeps.verbs import OWN, VERBS

GOOD = {"models": ["m"], "tasks": ["ioi"], "questions": [{"ask": "exact"}]}


def test_lists_multiply():
    plan = plan_of(
        {
            "models": ["one", {"name": "two", "dtype": "bfloat16"}],
            "tasks": [{"name": "ioi", "n": 8, "seed": [0, 1]}, "greater-than"],
            "questions": [{"ask": "exact", "units": ["heads", "mlps"]}, {"ask": "attribute", "method": "ig"}],
        }
    )
    names = [cell.name for cell in plan.cells]
    assert len(names) == len(set(names)) == 2 * 3 * 3
    assert names[0] == "one · ioi n=8 seed=0 · exact units=heads"
    assert names[-1] == "two dtype=bfloat16 · greater-than · attribute method=ig"


def test_a_file_says_the_same_as_a_dict(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('models = ["m"]\ntasks = ["ioi"]\nseconds = 5\n[[questions]]\nask = "exact"\n')
    said, given = plan_of(path), plan_of({**GOOD, "seconds": 5})
    assert said.digest() == given.digest() and (said.seconds, said.tries) == (given.seconds, given.tries)
    assert plan_of(path).digest() == plan_of(GOOD).digest()  # how it is cut changes no number


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": ["m"]}, MethodError, "Did you mean 'models'"),
        ({"models": []}, MethodError, "needs a list of models"),
        ({"models": "m"}, MethodError, "needs a list of models"),
        ({"models": [{"dtype": "float32"}]}, MethodError, "a model needs a name"),
        ({"models": [{"name": "m", "dtyp": 1}]}, MethodError, "Did you mean 'dtype'"),
        ({"tasks": ["ioy"]}, TaskError, "Did you mean 'ioi'"),
        ({"tasks": [{"name": "ioi", "file": "x.csv"}]}, MethodError, "one of the two"),
        ({"tasks": [{"file": "nowhere.csv"}]}, FileError, "nowhere.csv"),
        ({"questions": [{"units": "heads"}]}, MethodError, "says what it asks"),
        ({"questions": [{"ask": "exakt"}]}, MethodError, "Did you mean 'exact'"),
        ({"questions": [{"ask": "exact", "method": "ig"}]}, MethodError, "exact takes no option 'method'"),
        ({"questions": [{"ask": "exact"}, {"ask": "exact"}]}, MethodError, "twice"),
        ({"seconds": 0}, MethodError, "above 0"),
        ({"seconds": float("nan")}, MethodError, "above 0"),
        ({"tries": 0}, MethodError, "at least 1"),
    ],
)
def test_what_is_refused(change, error, said):
    with pytest.raises(error, match=said):
        plan_of({**GOOD, **change})


def test_files_that_are_no_plans(tmp_path):
    with pytest.raises(FileError, match="no plan"):
        plan_of(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("models = [")
    with pytest.raises(FileError, match="not TOML"):
        plan_of(tmp_path / "bad.toml")


def test_options_are_those_of_the_verbs():
    """Every name is an argument of its verb (of the estimate's or its own, where it is about one)."""
    verbs = {"exact": [vc.exact], "attribute": [vc.attribute], "ablation_study": [ablation_study]}
    verbs |= {"verify": [vc.attribute, vc.verify], "curve": [vc.attribute, vc.curve]}
    verbs |= {"study": [vc.study], "discover": [vc.discover]}
    for ask, names in VERBS.items():
        known = {name for verb in verbs[ask] for name in inspect.signature(verb).parameters}
        assert set(names) <= known, ask
        assert set(OWN.get(ask, ())) <= set(inspect.signature(verbs[ask][-1]).parameters)

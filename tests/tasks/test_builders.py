"""What holds for every built-in task, on real tokenizers."""

import re
from pathlib import Path

import pytest
from processes import python

from veracausa.errors import MethodError, TaskError
from veracausa.tasks import BUILTIN, build
from veracausa.tasks.tokens import encode


@pytest.fixture(params=BUILTIN)
def name(request):
    return request.param


def test_invariants(name, real):
    task = build(name, real, n=48)
    assert len(task) == 48 and task.name == name
    assert task.metric == ("prob_diff" if name == "greater-than" else "logit_diff")
    assert len(set(zip(task.clean, task.corrupted, strict=True))) == 48, "distinct pairs"
    start = () if real.bos_token_id != encode(real, "x")[0] else (real.bos_token_id,)
    for i in range(48):
        clean, corrupted = task.clean[i], task.corrupted[i]
        assert clean == encode(real, task.clean_text[i]) and corrupted == encode(real, task.corrupted_text[i])
        assert len(clean) == len(corrupted) and clean != corrupted
        assert clean[: len(start)] == start and 0 < task.first_difference[i] < len(clean)
        assert task.correct[i] and task.incorrect[i] and not set(task.correct[i]) & set(task.incorrect[i])
        # no stray token at the end, where the metric is read
        assert "".join(task.tokens(i)[0][len(start) :]) == task.clean_text[i]
        right, wrong = task.answer_strings(i)
        for text, ids in ((right, task.correct[i]), (wrong, task.incorrect[i])):
            assert [encode(real, task.clean_text[i] + t)[len(clean) :] for t in text] == [(t,) for t in ids]
        assert "template" in task.info[i]
    assert len({info["template"] for info in task.info}) >= 3
    assert task.options["seed"] == 0 and "seed 0" in task.describe()


@pytest.mark.cases(5)
def test_reproducible(name, real):
    task = build(name, real, n=24, seed=5)
    assert build(name, real, n=24, seed=5).digest() == task.digest()
    assert build(name, real, n=7, seed=5).digest() == task[:7].digest(), "example i is the same for any n"
    assert build(name, real, n=24, seed=6, metric="prob").clean != task.clean


def test_bad_options(name, real):
    with pytest.raises(TaskError, match=rf"{name}: \d+ pairs are asked for, but at most \d+ can be made for this"):
        build(name, real, n=10**12)
    for n in (0, -1, 2.5, "4", True):
        with pytest.raises(TaskError, match="the number of pairs, n, is a whole number of at least 1"):
            build(name, real, n=n)
    with pytest.raises(TaskError, match="the seed is a whole number"):
        build(name, real, n=2, seed="0")
    with pytest.raises(MethodError, match="there is no metric 'loss'"):
        build(name, real, n=2, metric="loss")


def test_a_tokenizer_without_the_words_says_so(name, words):
    unreadable, few = r"this tokenizer makes \['<unk>'\] of ' 1732'", r"(at most \d+|only \d+|none) can be made"
    expected = unreadable if name == "greater-than" else few
    with pytest.raises(TaskError, match=expected):
        build(name, words, n=10**6)


@pytest.mark.slow
def test_same_pairs_in_another_process(tmp_path, words):
    """Independent of Python's hash seed and of what ran before."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from word_tokenizer import word_tokenizer; from veracausa.tasks.data.names import FEMALE;"
        "from veracausa.tasks.data.ioi import OBJECTS, PLACES, TEMPLATES;"
        "from veracausa.tasks import ioi;"
        "words = ' '.join((*FEMALE, *OBJECTS, *PLACES, *TEMPLATES)).split();"
        "print(ioi(word_tokenizer(words), n=20, corruption='abc').digest())"
    )
    here = str(Path(__file__).parents[1] / "helpers")
    outputs = {python(code, here, env={"PYTHONHASHSEED": seed}) for seed in ("1", "2")}
    assert len(outputs) == 1 and re.fullmatch("[0-9a-f]{64}\n", outputs.pop())


def test_registry(real):
    assert build("greater_than", real, n=2).digest() == build("greater-than", real, n=2).digest()
    assert build("IOI", real, n=2, corruption="abc").options["corruption"] == "abc"
    with pytest.raises(TaskError, match="there is no task 'spelling'; the built-in ones are ioi, greater-than"):
        build("spelling", real)
    with pytest.raises(TaskError, match="task 'hypernymy' has no option corruption; its options are n, seed, metric"):
        build("hypernymy", real, corruption="abc")

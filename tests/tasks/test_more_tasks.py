"""Tasks with several kinds of corrupted prompts: what each asks for, what is right, what a corruption changes."""

import itertools
import re

import pytest
from word_tokenizer import digit_pair_tokenizer

import veracausa as vc
from veracausa.errors import TaskError
from veracausa.tasks.data.arithmetic import NUMBERS, OPERATIONS
from veracausa.tasks.data.factual_recall import FACTS, FRAMES, RELATIONS
from veracausa.tasks.data.negation import AFFIRMING, OPPOSITES
from veracausa.tasks.data.sentiment import ADJECTIVES, VERBS, VERDICTS
from veracausa.tasks.registry import CORRUPTIONS

MORE = [
    "induction",
    "docstring",
    "coloured-objects",
    "multiple-choice",
    "arithmetic",
    "factual-recall",
    "negation",
    "sentiment",
]
KINDS = [(name, kind) for name in MORE for kind in CORRUPTIONS[name]]


def made(lm, name, corruption=None, n=40):
    options = {} if corruption is None else {"corruption": corruption}
    return vc.tasks.build(name, lm, n=n, **options)


def answers(task, i):
    return tuple("|".join(side).strip() for side in task.answer_strings(i))


def read(task, i, corrupted=False):
    """The words of a pair's spans in one of its prompts."""
    tokens = task.tokens(i)[corrupted]
    return {name: "".join(tokens[slice(*span.of(not corrupted))]).strip() for name, span in task.spans[i].items()}


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", MORE)
def test_all_corruptions_have_the_same_clean_prompts(real, name):
    """Where a kind cannot be made of a pair, the others go on in the same order."""
    by_kind = {kind: made(real, name, kind) for kind in CORRUPTIONS[name]}
    first, *others = (dict(zip(task.clean, task.correct, strict=True)) for task in by_kind.values())
    for other in others:
        shared = first.keys() & other.keys()
        assert len(shared) > (10 if name in ("factual-recall", "arithmetic") else 39)
        assert all(first[prompt] == other[prompt] for prompt in shared)
    default = made(real, name)
    assert default.digest() == next(iter(by_kind.values())).digest()
    assert default.options["corruption"] == CORRUPTIONS[name][0]
    with pytest.raises(
        TaskError, match=rf"{name} has no corruption 'none'; choose one of {', '.join(CORRUPTIONS[name])}"
    ):
        made(real, name, "none")


@pytest.mark.cases(9)
@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_pair_has_its_spans_in_place(real, name, kind):
    task = made(real, name, kind)
    longest = max(map(len, task.spans))
    assert sum(len(one) == longest for one in task.spans) > 36
    stays = {span for one in task.spans for span in one if not one[span].moved}
    assert kind == "paraphrase" or stays == set(task.span_names)


@pytest.mark.parametrize("kind", CORRUPTIONS["induction"])
def test_induction(real, kind):
    task = made(real, "induction", kind)
    for i, info in enumerate(task.info):
        words, clean, other = info["words"], read(task, i), read(task, i, corrupted=True)
        follows = dict(itertools.pairwise(words))
        right, wrong = answers(task, i)
        assert clean["A1"] == clean["A2"] == info["last"] and clean["B1"] == right == follows[info["last"]]
        if kind == "last":
            assert follows[other["A2"]] == wrong and other["B1"] == right
        elif kind == "target":
            assert other["B1"] == wrong not in words and other["A1"] == other["A2"]
        else:
            assert other["A1"] not in words and other["B1"] not in words and other["A2"] == clean["A2"]


@pytest.mark.parametrize("kind", CORRUPTIONS["docstring"])
def test_docstring(real, kind):
    task = made(real, "docstring", kind)
    for i, info in enumerate(task.info):
        clean, other = read(task, i), read(task, i, corrupted=True)
        right, wrong = answers(task, i)
        defined = [clean[f"{letter}_def"] for letter in "ABCD"]
        assert defined == info["arguments"] and [clean["A_doc"], clean["B_doc"]] == defined[:2] and right == defined[2]
        changed = {name for name in clean if clean[name] != other[name]}
        assert changed == {
            "definition": {"C_def"}, "docstring": {"A_doc", "B_doc"}, "unrelated": {f"{x}_def" for x in "ABCD"}
        }[kind]  # fmt: skip
        assert wrong == (other["C_def"] if kind == "definition" else defined[3])


@pytest.mark.parametrize("kind", CORRUPTIONS["coloured-objects"])
def test_coloured_objects(real, kind):
    task = made(real, "coloured-objects", kind)
    for i, info in enumerate(task.info):
        clean, other = read(task, i), read(task, i, corrupted=True)
        right, wrong = answers(task, i)
        assert clean["object"] == clean["asked"] == info["asked"] and clean["colour"] == right
        assert dict(zip(info["objects"], info["colours"], strict=True))[clean["other_object"]] == clean["other_colour"]
        if kind == "question":
            assert other["asked"] == clean["other_object"] and wrong == other["other_colour"]
        elif kind == "colours":
            assert (other["colour"], other["other_colour"]) == (clean["other_colour"], right) and wrong == other[
                "colour"
            ]
        else:
            assert other["colour"] == wrong not in info["colours"]


@pytest.mark.parametrize("kind", CORRUPTIONS["multiple-choice"])
def test_multiple_choice(real, kind):
    task = made(real, "multiple-choice", kind)
    for i in range(len(task)):
        right, wrong = answers(task, i)
        for text, letter in ((task.clean_text[i], right), (task.corrupted_text[i], wrong)):
            options = dict(re.findall(r"^([A-Z])\. (\w+)$", text, flags=re.MULTILINE))
            fact = re.search(r" is (\w+)\.", text)[1]
            assert len(options) == 4 and options[letter] == fact and list(options.values()).count(fact) == 1
        clean = read(task, i)
        assert clean["symbol"] == right and clean["option"] == clean["fact"] and clean["object"] == clean["asked"]
    assert len({answers(task, i)[0] for i in range(len(task))}) == 4


@pytest.mark.parametrize("kind", CORRUPTIONS["arithmetic"])
def test_arithmetic(real, kind):
    numbers = {word: k for k, word in enumerate(NUMBERS)} | {str(k): k for k in range(100)}
    signs = {word: sign for sign, word in OPERATIONS.items()} | {sign: sign for sign in OPERATIONS}
    task = made(real, "arithmetic", kind)

    def result(said):
        a, b = numbers[said["a"]], numbers[said["b"]]
        return a + b if signs[said["operation"]] == "+" else a - b

    for i in range(len(task)):
        clean, other = read(task, i), read(task, i, corrupted=True)
        right, wrong = answers(task, i)
        assert numbers[right] == result(clean) and numbers[wrong] == result(other) != result(clean)
        changed = {name for name in clean if clean[name] != other[name]}
        assert changed == {"operand": {"b"}, "operands": {"a", "b"}, "operation": {"operation"}}[kind]
    assert {info["operation"] for info in task.info} == {"+", "-"} and len(
        {info["template"] for info in task.info}
    ) == 4


def test_arithmetic_of_numbers_that_are_single_tokens():
    """A tokenizer with all two-digit numbers has sums over 9, in digits alone."""
    task = vc.tasks.arithmetic(digit_pair_tokenizer(), n=30)
    assert any(int(answers(task, i)[0]) > 20 for i in range(30)) and not any(info["words"] for info in task.info)


@pytest.mark.parametrize("digits", [1, 3, 9])
@pytest.mark.parametrize("kind", CORRUPTIONS["arithmetic"])
def test_long_sums(real, kind, digits):
    """Both prompts go on with all tokens of the clean result but the last; each is read behind those before it."""
    task = vc.tasks.arithmetic(real, n=12, digits=digits, corruption=kind, metric="logprob")
    assert task.continued and task.over == "sum" and task.options["digits"] == digits
    assert vc.tasks.arithmetic(real, n=12, digits=digits, corruption=kind, metric="logprob").digest() == task.digest()
    for i, info in enumerate(task.info):
        clean, other, (right, none) = read(task, i), read(task, i, corrupted=True), answers(task, i)
        sign = 1 if clean["operation"] == "+" else -1
        assert int(right) == int(clean["a"]) + sign * int(clean["b"]) >= 0 and none == ""
        assert {len(said[name]) for said in (clean, other) for name in "ab"} == {digits}
        assert (info["a"], info["b"], info["operation"]) == (int(clean["a"]), int(clean["b"]), clean["operation"])
        changed = {name for name in clean if clean[name] != other[name]}
        assert changed == {"operand": {"b"}, "operands": {"a", "b"}, "operation": {"operation"}}[kind]
        written = "".join(real.decode([token]) for token in task.correct[i])
        assert written.strip() == right and task.clean[i][len(task.clean[i]) - len(task.correct[i]) + 1 :] == (
            task.corrupted[i][len(task.clean[i]) - len(task.correct[i]) + 1 :]
        ) == task.correct[i][:-1]  # fmt: skip
        assert f"{clean['a']} {clean['operation']} {clean['b']} = {right}".startswith(
            re.split(r"\n|, ", task.clean_text[i])[-1].rstrip()
        )
        for solved in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)(?=\n|,)", task.clean_text[i]):
            a, operation, b, result = solved
            assert int(a) + (int(b) if operation == "+" else -int(b)) == int(result)
    assert digits == 1 or max(len(one) for one in task.correct) > 1
    assert {info["operation"] for info in task.info} == {"+", "-"} and {info["template"] for info in task.info} == {
        0,
        1,
    }


def test_long_sums_of_a_tokenizer_with_pairs_of_digits(tmp_path):
    """Pairs whose numbers are split otherwise are passed over; the task's file gives it back."""
    tokenizer = digit_pair_tokenizer()
    task = vc.tasks.arithmetic(tokenizer, n=20, digits=4, metric="prob")
    assert task.over == "product" and len({len(one) for one in task.correct}) >= 1
    task.save(tmp_path / "sums.json")
    assert vc.open(tmp_path / "sums.json").digest() == task.digest()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"digits": 3}, r"digits=3: results can be several tokens.*metric='logprob' or 'prob'"),
        ({"digits": 0, "metric": "logprob"}, "1 to 9 digits"),
        ({"digits": 10, "metric": "logprob"}, "1 to 9 digits"),
        ({"digits": "3", "metric": "logprob"}, "1 to 9 digits"),
        ({"digits": True, "metric": "logprob"}, "1 to 9 digits"),
        ({"digits": 1, "metric": "logprob", "n": 10_000}, "only"),
    ],
)
def test_long_sums_that_cannot_be_made(real, how, said):
    with pytest.raises(TaskError, match=said):
        vc.tasks.build("arithmetic", real, **how)


@pytest.mark.parametrize("kind", CORRUPTIONS["factual-recall"])
def test_factual_recall(real, kind):
    task = made(real, "factual-recall", kind)
    fact = {(c, r): one for c, all_facts in FACTS.items() for r, one in zip(RELATIONS, all_facts, strict=True)}
    for i, info in enumerate(task.info):
        clean, other = read(task, i), read(task, i, corrupted=True)
        right, wrong = answers(task, i)
        assert right == fact[clean["subject"], clean["relation"]] != wrong
        assert task.clean_text[i] == FRAMES[info["template"]].format(**clean)
        if kind == "paraphrase":
            assert other == clean and task.corrupted_text[i] in {one.format(**clean) for one in FRAMES}
            assert wrong in {one for (_, r), one in fact.items() if r == clean["relation"]}
        else:
            assert wrong == fact[other["subject"], other["relation"]]
            assert {name for name in clean if clean[name] != other[name]} == {kind}
    assert {info["relation"] for info in task.info} == set(RELATIONS)


@pytest.mark.parametrize("kind", CORRUPTIONS["negation"])
def test_negation(real, kind):
    task = made(real, "negation", kind)
    opposite = {a: b for one, two, _ in OPPOSITES for a, b in ((one, two), (two, one))}
    for i in range(len(task)):
        clean, other = read(task, i), read(task, i, corrupted=True)
        assert answers(task, i) == (opposite[clean["adjective"]], clean["adjective"]) and clean["negation"] == "not"
        if kind == "affirmed":
            assert other["negation"] in AFFIRMING and other["adjective"] == clean["adjective"]
        else:
            assert other["negation"] == "not" and other["adjective"] == opposite[clean["adjective"]]


@pytest.mark.parametrize("kind", CORRUPTIONS["sentiment"])
def test_sentiment(real, kind):
    task = made(real, "sentiment", kind)
    for i, info in enumerate(task.info):
        clean, other = read(task, i), read(task, i, corrupted=True)
        side = 0 if info["praise"] else 1
        assert set(task.answer_strings(i)[0]) <= set(VERDICTS[side]) and set(task.answer_strings(i)[1]) <= set(
            VERDICTS[1 - side]
        )
        assert clean["adjective"] in ADJECTIVES[side] and clean["verb"] in VERBS[side]
        assert (other["adjective"] in ADJECTIVES[1 - side]) == (kind != "verb")
        assert (other["verb"] in VERBS[1 - side]) == (kind != "adjective")
    assert sum(info["praise"] for info in task.info) == 20

"""Where tasks are read: positions, continuations, texts; prompts without a counterpart; files of all of them."""

import json

import pytest
import torch

import veracausa as vc
from veracausa import errors
from veracausa.tasks import task
from veracausa.tasks.task_files import task_of

PAIR = {"clean": ["The key to the cabinet", "After Mary and John went to the store"],
        "corrupted": ["The keys to the cabinet", "After John and Mary went to the store"]}  # fmt: skip


def test_a_position_for_all_or_one_each(words):
    answers = {"correct": [" is", " is"], "incorrect": [" are", " are"]}
    usual = task(words, **PAIR, **answers)
    lengths = usual.lengths
    assert usual.places == tuple((n - 1,) for n in lengths) and "at position" not in usual.describe()
    second = task(words, **PAIR, **answers, read=-2)
    assert second.places == tuple((n - 2,) for n in lengths) and second.digest() != usual.digest()
    assert second.describe().endswith("metric logit_diff at position -2.")
    own = task(words, **PAIR, **answers, read=[3, (2, -1)], over="sum")
    assert own.places == ((3,), (2, lengths[1] - 1)) and own.over == "sum" and "sum over 1 to 2 positions" in str(own)
    every = task(words, **PAIR, **answers, read="all")
    assert every.places == tuple(tuple(range(n)) for n in lengths) and every.tail() == max(lengths)
    assert task(words, **PAIR, **answers, read=torch.tensor(-1)).digest() == usual.digest()
    assert own[1].places == own.places[1:] and own.with_metric("prob").places == own.places


def test_answers_of_several_tokens(words):
    made = task(words, **PAIR, correct=[" to the store", " is"], metric="logprob")
    assert made.continued and made.over == "sum" and made.answer_strings(0) == ([" to the store"], [])
    bare = task(words, **PAIR, correct=[" is", " is"], metric="logprob")
    n = bare.lengths
    assert made.lengths == (n[0] + 2, n[1]) and made.places == (tuple(range(n[0] - 1, n[0] + 2)), (n[1] - 1,))
    assert made.clean_text[0].endswith("cabinet to the") and made.clean[1] == bare.clean[1]
    assert made.with_metric("prob").over == "product" and made.with_metric("prob").with_metric("logprob").over == "sum"
    with pytest.raises(errors.AnswerError, match="has several tokens, which the metric 'logit' cannot read"):
        made.with_metric("logit")
    with pytest.raises(errors.AnswerError, match="is 3 tokens for this tokenizer"):
        task(words, **PAIR, correct=[" to the store", " is"], incorrect=[" are", " are"])
    with pytest.raises(errors.AnswerError, match="every pair has one correct answer"):
        task(words, **PAIR, correct=[" to the store", [" is", " are"]], metric="logprob")
    with pytest.raises(errors.TaskError, match="Leave read= out"):
        task(words, **PAIR, correct=[" to the store", " is"], metric="logprob", read=-2)


def test_a_text_answers_itself(words):
    made = task(words, clean=PAIR["clean"], paired=False, metric="logprob", read="text")
    assert not made.paired and made.continued and made.over == "mean"
    assert made.correct[0] == made.clean[0][1:] and made.places[0] == tuple(range(made.lengths[0] - 1))
    assert made.describe().startswith("custom: 2 prompts of ") and len(made.prompts) == 2
    spread = task(words, clean=PAIR["clean"], paired=False, metric="entropy", read="text")
    assert spread.correct == ((), ()) and not spread.continued and spread.places == made.places
    with pytest.raises(errors.TaskError, match="leave correct= out"):
        task(words, **PAIR, correct=[" is", " is"], metric="logprob", read="text")
    with pytest.raises(errors.TaskError, match='read by metric="logprob"'):
        task(words, **PAIR, metric="prob", read="text")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"read": 9}, "pair 0 of task 'custom' is read at position 9, but it has 5 tokens"),
        ({"read": "ends"}, "'ends' is no position: .*'all' or 'text'"),
        ({"read": "test"}, "Did you mean 'text'"),
        ({"read": [1]}, "1 entries, but there are 2 prompts"),
        ({"read": [1, []]}, "pair 1 .* is read at no position"),
        ({"read": [1, (2, 2)]}, r"read at positions \[2, 2\]: give each once, in order"),
        ({"read": [1, 2.5]}, "2.5, which is no position"),
        ({"read": True}, "True, which is no position"),
        ({"over": "median"}, "over='median' is not known"),
        ({"paired": False}, "says that there are no corrupted prompts, but there are"),
        ({"corrupted": None}, "corrupted is missing.*paired=False"),
    ],
)
def test_what_is_no_place_to_read(words, change, message):
    with pytest.raises(errors.TaskError, match=message):
        task(words, **(PAIR | {"correct": [" is", " is"], "incorrect": [" are", " are"]} | change))


def test_a_span_by_its_name(words):
    made = task(words, **PAIR, metric="entropy", spans={"place": ["cabinet", "store"]}, read="place")
    assert [made.tokens(i)[0][made.places[i][0]] for i in range(2)] == [" cabinet", " store"]
    with pytest.raises(errors.TaskError, match=r"'names' is no position: .*'all' or 'text' or 'place'"):
        task(words, **PAIR, metric="entropy", spans={"place": ["cabinet", "store"]}, read="names")
    with pytest.raises(errors.TaskError, match="in pair 1 that span stands elsewhere"):
        task(words, **PAIR, metric="entropy", spans={"who": ["The", "John"]}, read="who")


def test_files_keep_it(words, tmp_path):
    made = task(words, **PAIR, correct=[" to the store", " is"], metric="logprob")
    again = vc.open(made.save(tmp_path / "a.json"))
    assert again.digest() == made.digest() and again.places == made.places and again.over == "sum"
    alone = vc.open(task(words, clean="The key", paired=False, metric="entropy").save(tmp_path / "b.json"))
    assert (
        not alone.paired
        and alone.corrupted == alone.clean
        and alone.describe() == "custom: 1 prompt of 2 tokens, metric entropy."
    )


def test_an_own_metric_is_not_kept_in_files(words, tmp_path):
    def loud(logits):
        return logits.amax(-1)

    made = task(words, **PAIR, metric=loud)
    assert made.metric == "loud()" and made.correct == ((), ())
    again = vc.open(made.save(tmp_path / "a.json"))
    assert again.metric == "loud()" and len(again) == 2
    with pytest.raises(errors.MethodError, match=r"task.with_metric\(loud\)"):
        _ = again.measure
    assert again.with_metric(loud).digest() == made.digest()


def test_tasks_of_version_2_are_read(words, tmp_path):
    made = task(words, **PAIR, correct=[" is", " is"], incorrect=[" are", " are"])
    path = made.save(tmp_path / "a.json")
    content = json.loads(path.read_text())
    for name in ("read", "over", "continued", "number", "paired"):
        del content[name]
    content["version"] = 2
    assert task_of(content, path).digest() == made.digest()


def test_tables_without_counterparts(words, tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("clean,source\nThe key to the cabinet,a\nAfter Mary and John,b\n")
    made = task(words, path, paired=False, metric="logprob", read="text")
    assert len(made) == 2 and not made.paired and made.info[0]["source"] == "a"
    with pytest.raises(errors.TaskError, match="'corrupted', 'correct', 'incorrect' is missing"):
        task(words, path)

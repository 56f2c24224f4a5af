"""Tables of pairs: which columns are which, published sets, and pairs that do not fit."""

import json

import numpy as np
import pandas as pd
import pytest

import veracausa as vc
from veracausa.errors import AnswerError, FileError, PromptError, TaskError
from veracausa.tasks.columns import COLUMNS, PUBLISHED, layout, token_ids
from veracausa.tasks.rows import is_rows, table_in_memory

KEYS = ("The key to the cabinet", "The keys to the cabinet", " is", " are")
NAMES = ("Mary and John , Mary", "Mary and John , John", " John", " Mary")
OWN = [dict(zip(COLUMNS, row, strict=True)) for row in (KEYS, NAMES)]


class Frame:
    """What a DataFrame of polars shows of itself."""

    def __init__(self, rows):
        self.rows, self.columns = rows, list(rows[0])

    def to_dicts(self):
        return self.rows


class Dataset:
    """What a dataset of Hugging Face shows of itself."""

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(rows[0])

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)


IN_MEMORY = {
    "records": OWN,
    "columns": {name: [row[name] for row in OWN] for name in COLUMNS},
    "pandas": pd.DataFrame(OWN, index=[7, 9]),
    "polars": Frame(OWN),
    "dataset": Dataset(OWN),
}


def test_several_datasets_by_name_are_refused(words):
    for splits in ({"train": Dataset(OWN), "test": Dataset(OWN)}, {"train": OWN}):
        with pytest.raises(TaskError, match=r"several tables: train.*Give one: data\['train'\]"):
            vc.task(words, splits)


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_tables_in_memory_give_the_task_of_their_pairs(words, kind):
    by_lists = vc.task(words, **{name: [row[name] for row in OWN] for name in COLUMNS})
    found = vc.task(words, IN_MEMORY[kind])
    assert found.digest() == by_lists.digest() and found.name == "table"
    assert [info["row"] for info in found.info] == ["row 0", "row 1"]
    assert is_rows(IN_MEMORY[kind])


def renamed(**names):
    return [{names.get(key, key): value for key, value in row.items()} for row in OWN]


def test_columns_that_are_called_otherwise(words, tmp_path):
    rows = renamed(clean="prompt", correct="answer")
    found = vc.task(words, pd.DataFrame(rows), columns={"clean": "prompt", "correct": "answer"}, name="mine")
    assert found.digest() == vc.task(words, OWN).digest() and found.name == "mine"
    with pytest.raises(
        TaskError, match=r"the table, its columns: column 'clean', 'correct' is missing; there are 'prompt'"
    ):
        vc.task(words, pd.DataFrame(rows))
    with pytest.raises(TaskError, match=r"column 'promt' is missing.*Did you mean 'prompt'"):
        vc.task(words, pd.DataFrame(rows), columns={"clean": "promt", "correct": "answer"})
    years = [{"clean": "from the year 1352 to the year 13", "corrupted": "x", "label": 52, "own": " is"}]
    with pytest.raises(TaskError, match="column 'incorrect' is missing"):
        vc.task(words, years, columns={"correct": "own"})
    with pytest.raises(TaskError, match="'question' is nothing that a pair is made of"):
        vc.task(words, pd.DataFrame(rows), columns={"question": "prompt"})
    path = tmp_path / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    assert vc.task(words, path, columns={"clean": "prompt", "correct": "answer"}).digest() == found.digest()


def ids_of(words, text):
    return words.tokenizer.encode(text, add_special_tokens=False)[-1]


def of_set(words, columns):
    """The two pairs as a published set has them."""
    rows = []
    for row in OWN:
        cells = dict(zip(columns, row.values(), strict=True))
        rows.append({at: ids_of(words, value) if at.endswith("_idx") else value for at, value in cells.items()})
    return rows


@pytest.mark.parametrize("which", range(len(PUBLISHED)))
@pytest.mark.parametrize("kind", ["memory", "csv", "jsonl"])
def test_published_sets_are_known_by_their_columns(words, tmp_path, which, kind):
    known = PUBLISHED[which]
    rows = of_set(words, [known.columns[name] for name in COLUMNS])
    if kind == "memory":
        given = pd.DataFrame(rows)
    elif kind == "csv":
        given = tmp_path / "set.csv"
        pd.DataFrame(rows).to_csv(given)  # with the index that such files have as a nameless column
    else:
        given = tmp_path / "set.jsonl"
        given.write_text("\n".join(map(json.dumps, rows)))
    found = vc.task(words, given)
    assert found.digest() == vc.task(words, OWN).digest()
    assert found.options["as"] == known.name and known.name in found.describe()


def test_sets_of_ids_hold_lists_too(words):
    ids = [ids_of(words, text) for text in (" is", " John")]
    rows = [
        {
            "clean": KEYS[0],
            "corrupted": KEYS[1],
            "answers_idx": str(ids),
            "corrupted_answers_idx": f"[{ids_of(words, ' are')}]",
        }
    ]
    assert vc.task(words, rows).correct == (tuple(ids),)
    assert token_ids("5|7") == [5, 7] == token_ids(np.array([5, 7])) and token_ids(np.int64(5)) == 5
    for none in (5.7, "5.7", [5.7], True, "True", "1e400", float("inf"), "5|x"):
        assert token_ids(none) is none
        with pytest.raises(TaskError, match="answers are token ids here"):
            vc.task(words, [rows[0] | {"answers_idx": none}])
    assert [token_ids(one) for one in (5, "5", "[5, 7]", [5.0], "five", None, "(")] == [
        5,
        5,
        [5, 7],
        [5],
        "five",
        None,
        "(",
    ]


def test_another_corruption_of_a_set(words):
    rows = [row | {"corrupted_hard": NAMES[1]} for row in of_set(words, PUBLISHED[0].columns.values())[1:]]
    rows[0]["corrupted"] = "Mary and John , Anna"
    assert vc.task(words, rows).corrupted_text == ("Mary and John , Anna",)
    assert vc.task(words, rows, columns={"corrupted": "corrupted_hard"}).corrupted_text == (NAMES[1],)


def test_ids_of_another_tokenizer_are_refused(words, monkeypatch):
    """Where some answers begin a word and others go on with one, the ids are hardly this tokenizer's."""
    tokens = [ids_of(words, f" {word}") for word in ("is", "are", "John", "Mary")]
    common = {"clean": KEYS[0], "corrupted": KEYS[1], "incorrect_idx": ids_of(words, " bottle")}
    rows = [common | {"correct_idx": token} for token in tokens * 3]
    assert len(vc.task(words, rows)) == 12
    read = [" is", "are", "Jo", " Mary"]
    monkeypatch.setattr(vc.Task, "answer_strings", lambda self, i: ([read[i % 4]], [" bottle"]))
    with pytest.raises(TaskError, match=r"the answers are token ids, which read ' is', 'are'.*another one's"):
        vc.task(words, rows)
    by_name = {"correct": "correct_idx", "incorrect": "incorrect_idx"}
    assert len(vc.task(words, rows, columns=by_name)) == 12
    assert len(vc.task(words, rows[:4])) == 4  # too few to tell


def test_greater_than_by_its_year():
    rows = [
        {"clean": "from the year 1352 to the year 13", "corrupted": "from the year 1301 to the year 13", "label": 52}
    ]
    read = layout(list(rows[0]), {}, COLUMNS, "set.csv").read(rows[0])
    assert read["correct"] == [str(year) for year in range(53, 100)]
    assert read["incorrect"] == [f"{year:02d}" for year in range(53)]
    read = layout(["clean", "corrupted", "correct_idx"], {}, COLUMNS, "").read(
        {"clean": "The war lasted from the year 1604 to the year 16", "corrupted": "…", "correct_idx": "4"}
    )
    assert read["correct"][0] == "05" and read["incorrect"][-1] == "04"
    for wrong in ({"label": 51}, {"clean": "Two and two are"}):
        with pytest.raises(TaskError, match=r"'label' holds 5[12], which answers nothing by itself"):
            layout(list(rows[0]), {}, COLUMNS, "").read(rows[0] | wrong)


MIB = {
    "prompt": NAMES[0], "choices": ["John", "Mary"], "answerKey": 0, "template": "{A} and {B} , {A}",
    "swap_counterfactual": {"prompt": NAMES[1], "choices": ["John", "Mary"], "answerKey": 1},
    "same_counterfactual": {"prompt": "Mary and John , Anna", "choices": ["John", "Mary"], "answerKey": 0},
}  # fmt: skip


def test_mib(words):
    with pytest.raises(
        TaskError, match=r"several counterfactuals: swap_counterfactual, same_counterfactual. Choose one"
    ):
        vc.task(words, [MIB])
    found = vc.task(words, [MIB], columns={"corrupted": "swap_counterfactual"})
    assert found.digest() == vc.task(words, OWN[1:]).digest()
    assert found.options["as"] == "MIB" and found.info[0]["template"] == MIB["template"]
    same = vc.task(words, [MIB], columns={"corrupted": "same_counterfactual"})
    assert same.answer_strings(0) == ([" John"], [" Mary"]) and same.corrupted_text == ("Mary and John , Anna",)
    letters = MIB | {"choices": {"label": ["John", "Mary"], "text": ["a", "b"]}}
    assert vc.task(words, [letters], columns={"corrupted": "swap_counterfactual"}).digest() == found.digest()
    arrays = MIB | {"choices": np.array(["John", "Mary"], dtype=object)}
    assert vc.task(words, [arrays], columns={"corrupted": "swap_counterfactual"}).digest() == found.digest()
    with pytest.raises(TaskError, match="none of its 0 choices"):
        vc.task(words, [MIB | {"choices": 5}], columns={"corrupted": "swap_counterfactual"})
    with pytest.raises(TaskError, match=r"MIB's sets columns= chooses the counterfactual, and nothing else"):
        vc.task(words, [MIB | {"foo": " x"}], columns={"correct": "foo"})
    with pytest.raises(TaskError, match="row 0: answerKey 2 is none of its 2 choices"):
        vc.task(words, [MIB | {"answerKey": 2}], columns={"corrupted": "swap_counterfactual"})


def test_one_object_with_a_list_and_lines_called_json(words, tmp_path):
    rows = of_set(words, PUBLISHED[-1].columns.values())
    path = tmp_path / "prompts.json"
    for text in (
        json.dumps({"prompts": rows, "seq_labels": ["a"]}),
        json.dumps(rows),
        "\n".join(map(json.dumps, rows)),
    ):
        path.write_text(text)
        assert vc.task(words, path).digest() == vc.task(words, OWN).digest()
    for text in ("7", "[1]", json.dumps({"a": 1}), json.dumps({"format": "veracausa.task", "x": rows})):
        path.write_text(text)
        with pytest.raises(FileError, match="no list of objects"):
            vc.task(words, path)
    path.write_text("{")
    with pytest.raises(FileError, match="line 1: not readable as JSON"):
        vc.task(words, path)


SHORT = {"clean": "The key", "corrupted": "The keys to", "correct": " is", "incorrect": " are"}
SEVERAL = {"clean": "The key", "corrupted": "The keys", "correct": " is are", "incorrect": " are"}
TWICE = {"clean": "The key", "corrupted": "The keys", "correct": [" is", " is"], "incorrect": " are"}


def test_pairs_that_do_not_fit_are_left_out_and_listed(words):
    rows = [OWN[0], SHORT, SEVERAL, OWN[1], TWICE]
    with pytest.raises(PromptError, match="the table, row 1: the clean prompt is 2 tokens"):
        vc.task(words, rows)
    with pytest.raises(AnswerError, match="row 1, correct"):
        vc.task(words, [OWN[0], SEVERAL])
    found = vc.task(words, rows, unequal="skip")
    assert found.digest() == vc.task(words, OWN).digest()
    assert [info["row"] for info in found.info] == ["row 0", "row 3"]
    assert [why.split(":")[0] for why in found.options["left out"]] == [
        "the table, row 1", "the table, row 2, correct", "the table, row 4"
    ]  # fmt: skip
    assert "3 left out" in found.describe()
    with pytest.raises(TaskError, match=r"None of the 2 pairs fits this tokenizer. The first: the table, row 0"):
        vc.task(words, [SHORT, SEVERAL], unequal="skip")
    lists = {name: [row[name] for row in rows] for name in COLUMNS}
    assert vc.task(words, **lists, unequal="skip").digest() == found.digest()


def test_a_task_with_pairs_left_out_is_kept_whole(words, tmp_path):
    found = vc.task(words, [OWN[0], SHORT], unequal="skip")
    again = vc.open(found.save(tmp_path / "task.json"))
    assert again.options == found.options and again.describe() == found.describe()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": 7}, r"data is a table of pairs .* int: 7"),
        ({"data": []}, r"data is a table of pairs .*list: \[\]"),
        ({"data": ["a text"]}, "data is a table of pairs"),
        (
            {"data": {"train": pd.DataFrame(OWN), "test": pd.DataFrame(OWN)}},
            r"several tables: train, test.*data\['train'\]",
        ),
        ({"data": {"clean": ["a", "b"], "corrupted": ["c"]}}, "no lists of one length"),
        ({"data": OWN, "clean": "a"}, "data holds the pairs, and so does clean"),
        ({"clean": "a"}, "corrupted, correct is missing"),
        ({"columns": {"clean": "x"}, "clean": "a", "corrupted": "b", "correct": "c"}, "columns= are those of a table"),
        ({"data": OWN, "unequal": "drop"}, "unequal='drop'"),
        ({"data": pd.DataFrame([OWN[0] | {"incorrect": None}, OWN[1]])}, "row 0, column 'incorrect' is empty"),
        ({"data": pd.DataFrame([OWN[0] | {"clean": float("nan")}, OWN[1]])}, "row 0, column 'clean' is empty"),
        ({"data": pd.DataFrame([[*KEYS, " x"]], columns=[*COLUMNS, "clean"])}, "column 'clean' is there twice"),
    ],
)
def test_what_is_no_table_of_pairs(words, given, message):
    with pytest.raises(TaskError, match=message):
        vc.task(words, **given)


def test_columns_whose_names_are_no_text(words):
    frame = pd.DataFrame([list(row.values()) for row in OWN])
    columns = {name: str(at) for at, name in enumerate(COLUMNS)}
    assert vc.task(words, frame, columns=columns).digest() == vc.task(words, OWN).digest()
    nested = pd.DataFrame(OWN)
    nested.columns = pd.MultiIndex.from_product([["pair"], COLUMNS])
    columns = {name: str(("pair", name)) for name in COLUMNS}
    assert vc.task(words, nested, columns=columns).digest() == vc.task(words, OWN).digest()
    for odd in ((one for one in OWN), {"clean": (x for x in "a")}, pd.DataFrame, [{5: 1}]):
        with pytest.raises(TaskError):
            vc.task(words, odd)


def test_where_a_row_stood_is_kept_beside_a_column_of_that_name(words):
    assert vc.task(words, [OWN[0] | {"row": "mine"}]).info[0]["row"] == "row 0"


def test_an_arrow_table_is_read(words):
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(OWN)
    assert table_in_memory(table).columns == list(COLUMNS)
    assert vc.task(words, table).digest() == vc.task(words, OWN).digest()


def test_sets_of_acdc_as_auto_circuit_writes_them(words, tmp_path):
    """Labels and indices of words beside the pairs are passed over; ids of a compiled program's own model refused."""
    pair = {"clean": KEYS[0], "corrupt": KEYS[1], "answers": [" is"], "wrong_answers": [" are", " John"]}
    body = {"seq_labels": ["The", "noun"], "word_idxs": {"noun": 1}, "prompts": [pair]}
    (tmp_path / "docstring_prompts.json").write_text(json.dumps(body))
    found = vc.task(words, tmp_path / "docstring_prompts.json")
    assert found.options["as"] == "auto-circuit" and found.answer_strings(0) == ([" is"], [" are", " John"])
    program = {"clean": [3, 0, 1], "corrupt": [3, 1, 0], "answers": [[1, 0]], "wrong_answers": [[0, 1]]}
    (tmp_path / "tracr.json").write_text(json.dumps({"prompts": [program]}))
    with pytest.raises(TaskError, match=r"row 0, column 'clean': a prompt is text or a list of messages.*\[3, 0, 1\]"):
        vc.task(words, tmp_path / "tracr.json")

import json
import sys

import pytest

from veracausa.errors import AnswerError, ExtraError, FileError, PromptError, TaskError
from veracausa.tasks import task as given

ROWS = [
    {
        "clean": "The key to the cabinet",
        "corrupted": "The keys to the cabinet",
        "correct": [" is"],
        "incorrect": [" are"],
    },
    {
        "clean": "Mary and John , Mary",
        "corrupted": "Mary and John , John",
        "correct": [" John"],
        "incorrect": [" Mary", " Anna"],
    },
]
HEADER = "clean,corrupted,correct,incorrect"
CSV = [HEADER, "The key to the cabinet,The keys to the cabinet, is, are"]
CSV.append('"Mary and John , Mary","Mary and John , John", John, Mary| Anna')


def write(path, lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def as_csv(folder, lines=CSV):
    return write(folder / "pairs.csv", lines)


def as_jsonl(folder, rows=ROWS):
    return write(folder / "pairs.jsonl", [json.dumps(row) for row in rows])


def as_parquet(folder, rows=ROWS):
    import pandas

    pandas.DataFrame(rows).to_parquet(folder / "pairs.parquet")
    return folder / "pairs.parquet"


def test_three_formats_give_one_task(tmp_path, words):
    tasks = [given(words, make(tmp_path)) for make in (as_csv, as_jsonl, as_parquet)]
    assert len({task.digest() for task in tasks}) == 1
    assert [task.name for task in tasks] == ["pairs"] * 3
    assert tasks[0].answer_strings(1) == ([" John"], [" Mary", " Anna"])
    assert [task.info[1]["row"] for task in tasks] == ["line 3", "line 2", "row 2"]
    assert tasks[0].options == {"file": "pairs.csv"}


def test_single_answers_as_text_and_other_columns(tmp_path, words):
    rows = [{**ROWS[0], "correct": " is", "incorrect": " are", "kind": "near", "n": 3, "odd": {"a": 1}}]
    for make in (as_jsonl, as_parquet):
        task = given(words, make(tmp_path, rows), name="mine")
        assert task.answer_strings(0) == ([" is"], [" are"]) and task.name == "mine"
        assert {k: v for k, v in task.info[0].items() if k != "row"} == {"kind": "near", "n": 3}


def test_a_spreadsheet_file(tmp_path, words):
    """A byte order mark, Windows line ends, blank lines, spaces in the header, a line break inside a cell."""
    text = "\ufeffclean , corrupted,correct,incorrect\r\n\r\nThe key,The keys, is, are\r\n"
    text += '"The\nkeys","The\nkey", are, is\r\nx\r\n'
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.removesuffix("x\r\n").encode())
    assert [info["row"] for info in given(words, path).info] == ["line 3", "line 4"]
    path.write_bytes(text.encode())
    with pytest.raises(FileError, match=r"pairs.csv, line 7: 1 cells in a table of 4 columns"):
        given(words, path)


def test_incorrect_may_be_absent_for_other_metrics(tmp_path, words):
    path = as_csv(tmp_path, ["clean,corrupted,correct", "The key,The keys, is"])
    assert given(words, path, metric="logprob").incorrect == ((),)
    with pytest.raises(TaskError, match="line 1: column 'incorrect' is missing; there are 'clean', 'corrupted'"):
        given(words, path)


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([], TaskError, "pairs.csv has no examples; it needs one row per pair, with the columns clean, corrupted"),
        ([HEADER], TaskError, "has no examples"),
        (["clean,correct,incorrect", "a,b,c"], TaskError, "pairs.csv, line 1: column 'corrupted' is missing"),
        (["clean,clean,correct,incorrect", "a,b,c"], TaskError, "column 'clean' is there twice"),
        ([HEADER, "The key, is, are"], FileError, "pairs.csv, line 2: 3 cells in a table of 4 columns"),
        ([*CSV, ",The key, is, are"], TaskError, "pairs.csv, line 4, column 'clean' is empty"),
        ([*CSV, "The key,The keys, , are"], TaskError, "line 4, column 'correct' is empty"),
        (
            [*CSV, "The key,The keys, is| ,"],
            TaskError,
            "line 4, column 'correct': answers are a text or a list of texts",
        ),
        ([*CSV, "The key,The keys, is,"], TaskError, "line 4, column 'incorrect' is empty"),
        ([*CSV, 'The key,"The keys, is, are'], FileError, "line 4: not readable as CSV: unexpected end of data"),
        ([*CSV, "The key,The keys to, is, are"], PromptError, r"pairs.csv, line 4: the clean prompt is 2 tokens and"),
        ([*CSV, "The key,The keys, is are, are"], AnswerError, "pairs.csv, line 4, correct: .* is 2 tokens"),
    ],
)
def test_bad_csv(tmp_path, words, lines, error, message):
    with pytest.raises(error, match=message):
        given(words, as_csv(tmp_path, lines))


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ('{"clean": "The', FileError, "pairs.jsonl, line 3: not readable as JSON: "),
        ("[1, 2]", FileError, r"line 3: a row is a JSON object with columns, but this is '\[1, 2\]'"),
        ('{"clean": "The key"}', TaskError, "line 3: column 'corrupted', 'correct', 'incorrect' is missing"),
        (json.dumps(ROWS[0] | {"clean": 7}), TaskError, "line 3, column 'clean': a prompt is text or a list .* int: 7"),
        (json.dumps(ROWS[0] | {"clean": None}), TaskError, "line 3, column 'clean' is empty"),
        (json.dumps(ROWS[0] | {"correct": 7}), TaskError, "line 3, column 'correct': answers are a text or a list"),
        (json.dumps(ROWS[0] | {"incorrect": []}), TaskError, "line 3, column 'incorrect' is empty"),
    ],
)
def test_bad_jsonl(tmp_path, words, line, error, message):
    path = as_jsonl(tmp_path)
    write(path, [*path.read_text().splitlines(), line])
    with pytest.raises(error, match=message):
        given(words, path)


def test_bad_files(tmp_path, words):
    with pytest.raises(FileError, match=r"there is no file .*none.csv"):
        given(words, tmp_path / "none.csv")
    with pytest.raises(FileError, match=r"pairs.txt is none of .csv, .json, .jsonl, .ndjson, .parquet by its name"):
        given(words, write(tmp_path / "pairs.txt", CSV))
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(FileError, match="there is no file"):
        given(words, folder)
    for suffix in (".csv", ".jsonl"):
        path = tmp_path / f"binary{suffix}"
        path.write_bytes(b"clean,\xff\xfe\x00")
        with pytest.raises(FileError, match="is damaged or not UTF-8 text"):
            given(words, path)
    whole = as_parquet(tmp_path)
    for content in (b"PAR1 not a table PAR1", whole.read_bytes()[:-40], b""):
        whole.write_bytes(content)
        with pytest.raises(FileError, match=r"pairs.parquet is damaged or not a Parquet file"):
            given(words, whole)
    with pytest.raises(TaskError, match=r"pairs.parquet, the header: column 'correct', 'incorrect' is missing"):
        given(words, as_parquet(tmp_path, [{"clean": "x", "corrupted": "y"}]))


def test_parquet_without_pyarrow_says_how_to_install_it(tmp_path, words, monkeypatch):
    path = as_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExtraError, match=r"needs what .* \(pyarrow\): pip install 'veracausa\[parquet\]'"):
        given(words, path)

import dataclasses
import json

import numpy as np
import pytest
import torch

from veracausa.errors import FileError
from veracausa.storage.files import write_json
from veracausa.tasks import Task, greater_than, ioi
from veracausa.tasks.task_files import load_task


def test_round_trip(tmp_path, real):
    for task in (ioi(real, n=6, seed=2), greater_than(real, n=3).with_metric("logit_diff_lse")):
        path = task.save(tmp_path / "new" / "task.json")
        again = load_task(path)
        for name in Task.__dataclass_fields__:
            assert getattr(again, name) == getattr(task, name), name
        assert again.digest() == task.digest() and again.describe() == task.describe()
        assert (
            again.tokens(1) == task.tokens(1)
            and again[1].answers().tokens.tolist() == task[1].answers().tokens.tolist()
        )
    assert [p.name for p in path.parent.iterdir()] == ["task.json"], "no partial files are left"


def test_a_failed_save_leaves_the_old_file(tmp_path, real):
    task = ioi(real, n=2)
    path = task.save(tmp_path / "task.json")
    with pytest.raises(FileError, match=r"The task's options\['bad'\] is object"):
        dataclasses.replace(task, options={"bad": object()}).save(path)
    assert load_task(path).digest() == task.digest()
    assert [p.name for p in tmp_path.iterdir()] == ["task.json"]


def test_what_is_kept_beside_pairs(tmp_path, real):
    """Tuples, arrays and large numbers come back, as lists and as they are; the task's own identity does not change."""
    info = {"tuple": (1, (2, "a")), "array": np.arange(3), "one": np.float64(0.5), "large": 10**300, "none": None,
            "tensor": torch.tensor([1.5]), "row": {"of": {"rows": [True]}}, "word": "São — ⏎"}  # fmt: skip
    task = dataclasses.replace(ioi(real, n=2), info=(info, {}), options={"seed": np.int64(3)})
    again = load_task(task.save(tmp_path / "task.json"))
    plain = {"tuple": [1, [2, "a"]], "array": [0, 1, 2], "one": 0.5, "tensor": [1.5]}
    assert again.info == (info | plain, {}) and again.options == {"seed": 3} and again.digest() == task.digest()
    json.loads((tmp_path / "task.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"info": ({"a": -(10**5000)}, {})}, r"info\[0\]\['a'\] is int: a very large int"),
        ({"info": ({}, {"a": ["\ud800"]})}, r"info\[1\]\['a'\]\[0\] holds half of a character, '\\ud800'"),
        ({"info": ({"\udfff": 1}, {})}, r"a key of The task's info\[0\] holds half"),
        ({"info": ({"a": {1: 2}}, {})}, r"a key of The task's info\[0\]\['a'\] is int: 1, but .* keys are text"),
        ({"info": ({"a": {1, 2}}, {})}, r"info\[0\]\['a'\] is set"),
        ({"info": ({"a": b"x"}, {})}, r"info\[0\]\['a'\] is bytes"),
        ({"options": {"a": 1j}}, r"options\['a'\] is complex"),
        ({"name": "\ud800"}, "The task's name holds half"),
        ({"clean_text": ("\ud800", "")}, r"clean_text\[0\] holds half"),
        ({"vocabulary": {5: "\ud800"}}, r"vocabulary\['5'\] holds half"),
    ],
)
def test_what_no_file_could_give_back_is_refused(tmp_path, real, changes, said):
    task = dataclasses.replace(ioi(real, n=2), **changes)
    with pytest.raises(FileError, match=said):
        task.save(tmp_path / "task.json")
    assert not (tmp_path / "task.json").exists()


def test_a_value_within_itself_is_refused(tmp_path, real):
    own: list = []
    own.append(own)
    with pytest.raises(FileError, match="deeper than 100 levels"):
        dataclasses.replace(ioi(real, n=1), info=({"own": own},)).save(tmp_path / "task.json")


def test_bad_files(tmp_path, real):
    path = ioi(real, n=2).save(tmp_path / "task.json")
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    with pytest.raises(FileError, match=r"there is no task file .*none.json"):
        load_task(tmp_path / "none.json")
    with pytest.raises(FileError, match="cannot be read"):
        load_task(tmp_path)
    changed = {**content, "correct": content["incorrect"], "incorrect": content["correct"]}
    for bad, message in (
        (text[: len(text) // 2], "is not a task file, or it is cut short"),
        ("", "is not a task file"),
        ("\x00\x01", "is not a task file"),
        ("[1]", "not a task that veracausa saved"),
        ('{"format": "other"}', "not a task that veracausa saved; prompts of your own are read by vc.task"),
        ("[" * 100_000, "is not a task file"),
        (json.dumps({**content, "version": 9}), "version 9 of the task format; this library reads 2"),
        (json.dumps(changed), "its checksum does not fit it"),
        (json.dumps({**content, "checksum": 3}), "its checksum does not fit it"),
        ({k: v for k, v in content.items() if k != "clean"}, "is damaged: KeyError: 'clean'"),
        ({**content, "clean": content["clean"][:1]}, "is damaged: TaskError"),
        ({**content, "clean": 3}, "is damaged: TypeError"),
        ({**content, "metric": "x"}, "is damaged: MethodError"),
        (changed, "its digest does not fit its content"),
    ):
        if isinstance(bad, str):
            path.write_text(bad, encoding="utf-8")
        else:
            write_json(path, bad)  # with the checksum of what is wrong
        with pytest.raises(FileError, match=message):
            load_task(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="is not a task file"):
        load_task(path)

"""`veracausa sweep`: a plan's forecast, its run, its state and its results."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import model_folder, pairs_file
from typer.testing import CliRunner

import veracausa as vc
from veracausa.cli.app import app


def said(*words):
    return CliRunner().invoke(app, ["sweep", *map(str, words)])


@pytest.fixture
def plan(tmp_path):
    model, pairs = model_folder(tmp_path / "model"), pairs_file(tmp_path / "pairs.csv")
    text = f'models = [{{name = "{model}", device = "cpu"}}]\n[[tasks]]\nfile = "{pairs}"\n'
    (tmp_path / "plan.toml").write_text(text + '[[questions]]\nask = "exact"\nunits = ["heads", "mlps"]\n')
    return tmp_path / "plan.toml"


def test_a_plan_is_forecast_done_told_and_merged(plan, tmp_path):
    out = tmp_path / "out"
    before = said(plan, "--out", out, "--forecast", "--json")
    assert before.exit_code == 0 and not (out / "items").exists()
    assert [row["done"] for row in json.loads(before.stdout)["table"]] == [0, 0]
    assert all(word in before.stderr for word in ("token-layers", "peak memory", "on the disk"))
    assert 'sbatch --array 0-63 --wrap "veracausa sweep' in str(said(plan, "--out", out, "--runner", "slurm").exception)
    assert "2 of 2 cells are not done yet." in said("merge", out).stdout
    assert "2 of 2 items of 2 cells are done." in said(plan, "--out", out).stdout
    state = json.loads(said("status", out, "--json").stdout)
    assert state["finished"] and [row["done"] for row in state["table"]] == [1, 1]
    results = json.loads(said("merge", out, "--json").stdout)["results"]
    lm = vc.load(str(tmp_path / "model"), device="cpu")
    direct = vc.exact(lm, vc.task(lm, tmp_path / "pairs.csv"), units="mlps", show_progress=False)
    (path,) = (path for name, path in results.items() if "mlps" in name)
    assert torch.equal(vc.open(path).values, direct.values)
    page = Path(json.loads(said("page", out, "--json").stdout)["page"]).read_text(encoding="utf-8")
    assert page.count('class="cell done" href="#cell-') == 2 and page.count('href="results/') == 2
    files = json.loads(said("export", out, "--json").stdout)["files"]
    assert len(files) == 2 and len(pd.read_parquet(files[1])) == direct.values.numel()
    assert vc.open(out).finished  # the folder itself is a result that opens


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere.toml", "--out", "o"], "There is no plan"),
        (["plan.toml"], "needs a folder"),
        (["status", "nowhere"], "holds no sweep"),
        (["a.toml", "b.toml", "--out", "o"], "takes a plan"),
        (["plan.toml", "--out", "o", "--runner", "ra"], "ra"),
    ],
)
def test_what_is_refused(words, expected):
    done = said(*words)
    assert done.exit_code != 0 and expected in f"{done.output}{done.exception}"

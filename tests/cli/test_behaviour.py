"""`veracausa ablate` on a tiny model in a folder: output, files, a second call, errors."""

import pandas as pd
import pytest
from command_line import called, model_folder, pairs_file

import veracausa as vc


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return model_folder(folder / "tiny-llama"), pairs_file(folder / "agreement.csv")


def test_ablate_prints_and_saves_what_the_call_returns(places, tmp_path):
    folder, pairs = places
    how = ("--units", "a0.h1,m2", "--ablations", "zero,counterfactual", "--new-tokens", 2, "--out", tmp_path)
    result = called(folder, "ablate", pairs, *how)
    assert result.exit_code == 0, result.output
    lm = vc.load(folder, device="cpu")
    task = vc.task(lm, pairs)
    price = vc.forecast(
        vc.behaviour.ablation_study, lm, task, units=["a0.h1", "m2"], ablations=("zero", "counterfactual"),
        new_tokens=2, measure=False,
    )  # fmt: skip
    assert f"cost   {price.what}: {price.token_layers:,.0f} token-layers" in result.stderr  # before it starts
    study = vc.behaviour.ablation_study(
        lm, task, units=["a0.h1", "m2"], ablations=("zero", "counterfactual"), new_tokens=2, show_progress=False
    )
    saved = vc.open(tmp_path / "ablation-study.safetensors")
    assert saved.table().equals(study.table())
    assert all(sentence in result.output for sentence in study.sentences)
    assert len(pd.read_csv(tmp_path / "ablation-study.csv")) == 1 + 2 * 3
    assert called(folder, "ablate", pairs, *how).exit_code == 0  # from the finished pieces


def test_ablate_needs_units_that_the_model_has(places):
    folder, pairs = places
    assert "units" in called(folder, "ablate", pairs).output
    assert "a9.h0" in str(called(folder, "ablate", pairs, "--units", "a9.h0").exception)

"""Do scores foretell behaviour? Each method's scores beside what ablating the same units does to task accuracy.

* r, Spearman: score (share of the gap) against the change of accuracy, signed; magnitudes of both where a method gives
  magnitudes only. Negative scores and negative changes both mean support, so a good method correlates positively.
* precision, recall: "|score| over a threshold" (or the k strongest units) as a forecast of "ablation changes accuracy
  significantly" (McNemar, Holm; see `AblationStudy.significant`). Precision: of those forecast, how many changed it;
  recall: of those that changed it, how many were forecast.
* average precision: the same over all thresholds, by |score|; its value for a random ranking is the share that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import pearsonr, spearmanr

from veracausa.behaviour.foretold import Against, Forecast
from veracausa.errors import MethodError
from veracausa.scores.agreement import label
from veracausa.scores.scores import METRIC
from veracausa.statistics.ranking import average_precision
from veracausa.typed import require

if TYPE_CHECKING:
    from veracausa.behaviour.results import AblationStudy
    from veracausa.scores.scores import Scores


def against(
    study: AblationStudy, scores: Sequence[Scores], *, ablation: str, k: int | None, threshold: float
) -> Against:
    """Compare methods' scores with what ablation does; the rule is the k strongest units if k is given.

    Raises:
        MethodError: no score, scores of another model or task, an ablation that the study lacks, fewer than two units
            that all have, k or threshold out of range.
    """
    alone = {one.condition.units[0]: one for one in study.outcomes
             if one.condition.ablation == ablation and len(one.condition.units) == 1}  # fmt: skip
    if not alone:
        raise MethodError(f"ablation={ablation!r}: the study has {', '.join(study.settings['ablations'])}.")
    _require_same(study, scores)
    tables = [dict(zip(one.units.names, one.scaled().double().tolist(), strict=True)) for one in scores]
    names = tuple(name for name in alone if all(np.isfinite(table.get(name, np.nan)) for table in tables))
    if len(names) < 2:
        raise MethodError(f"Only {len(names)} of the study's units is in all scores; correlations need two or more.")
    _require_rule(scores, len(names), k, threshold)
    change = np.array([alone[name].accuracy_change for name in names])
    changed = np.array([alone[name].p_holm <= study.alpha for name in names])
    rule = f"|score| over {threshold:g} of the gap" if k is None else f"one of the {k} largest |scores|"
    forecasts = tuple(
        _forecast(_name(one), one.signed, np.array([table[name] for name in names]), change, changed, k, threshold)
        for one, table in zip(scores, tables, strict=True)
    )
    stderr = np.array([alone[name].accuracy_stderr for name in names])
    about = study.model, study.task, study.settings
    return Against(names, ablation, change, stderr, changed, rule, study.n, study.alpha, forecasts, *about)


def _require_same(study: AblationStudy, scores: Sequence[Scores]) -> None:
    """There are scores, and they are of the study's model and task."""
    if not scores:
        raise MethodError("Pass the scores to compare, e.g. study.against(atp, exact, ablation='zero').")
    for one in scores:
        require(one, "Scores", "study.against: what is compared", {})
        if one.model["identity"] != study.model["identity"] or one.task["name"] != study.task["name"]:
            raise MethodError(
                f"{label(one)} is of {one.model['name']} on {one.task['name']!r}, the study of {study.model['name']} "
                f"on {study.task['name']!r}: their units' numbers do not correspond."
            )


def _require_rule(scores: Sequence[Scores], units: int, k: int | None, threshold: float) -> None:
    """The rule is in range, and says something of all scores."""
    if (k is not None and not 1 <= k <= units) or threshold < 0:
        raise MethodError(f"k={k}, threshold={threshold}: k lies between 1 and {units}, the threshold at 0 or above.")
    if k is None and (other := [one for one in scores if one.unit != METRIC]):
        raise MethodError(
            f"threshold={threshold:g} is a share of the gap, but {label(other[0])} is in units of {other[0].unit}. "
            "Pass k=, the number of strongest units that count as forecast."
        )


def _name(scores: Scores) -> str:
    """The method's name, with the ablation where exact effects are not counterfactual."""
    ablation = scores.settings.get("ablation")
    plain = scores.method != "exact" or ablation in (None, "counterfactual")
    return label(scores) if plain else f"exact ({ablation} ablation)"


def _forecast(
    method: str,
    signed: bool,
    score: np.ndarray,
    change: np.ndarray,
    changed: np.ndarray,
    k: int | None,
    threshold: float,
) -> Forecast:
    size = np.abs(score)
    if k is None:
        picked = size > threshold
    else:
        picked = np.zeros(len(size), dtype=bool)
        picked[np.argsort(-size, kind="stable")[:k]] = True
    x, y = (score, change) if signed else (size, np.abs(change))
    varied = np.ptp(x) > 0 and np.ptp(y) > 0
    hits = int((picked & changed).sum())
    return Forecast(
        method=method,
        signed=signed,
        score=score,
        r=float(pearsonr(x, y).statistic) if varied else float("nan"),
        spearman=float(spearmanr(x, y).statistic) if varied else float("nan"),
        forecast=int(picked.sum()),
        hits=hits,
        precision=hits / int(picked.sum()) if picked.any() else float("nan"),
        recall=hits / int(changed.sum()) if changed.any() else float("nan"),
        average_precision=average_precision(changed, size) if changed.any() else float("nan"),
    )

"""What headers say about how numbers came about, and which of it two results must share to be compared.

Two scores are about the same quantity if model, task, direction and what replaces a unit are the same, with all that
the replacement depends on: the reference set of means and donors, the seed of resampling, the learned constants.
Method, path, nodes, grid, rule and the seeds of estimates say how it was estimated; in these they may differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from veracausa.engine.identity import difference
from veracausa.errors import MethodError, UnitError
from veracausa.scores.estimands import BASELINES, REFERRING
from veracausa.storage.origin import same_ends
from veracausa.tasks.placing import placed

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.tasks.task import Task

UNRECORDED = "not recorded"


def prompts_digest(task: Task) -> str:
    """A hash of a set's prompts, in their order: equal for two sets that give the same means and donors."""
    return hashlib.sha256(json.dumps([task.clean, task.corrupted], separators=(",", ":")).encode()).hexdigest()[:12]


def reference_settings(replacement: str, task: Task, reference: Task | None) -> dict[str, Any]:
    """The reference set that a replacement takes its values from, in words and as a hash; nothing where it has none."""
    if replacement not in REFERRING:
        return {}
    source = task if reference is None else reference
    return {"reference": source.describe(), "reference_digest": prompts_digest(source)}


def span_settings(task: Task) -> dict[str, Any]:
    """The spans of a task, for numbers that rest on them: how many pairs have each, and where they are, as a hash."""
    pairs = {name: sum(name in each for each in task.spans) for name in task.span_names}
    told = (name if n == len(task) else f"{name} ({n} of {len(task)} pairs)" for name, n in pairs.items())
    return {"spans": ", ".join(told), "spans_digest": placed(task)}


def align_settings(task: Task, names: Sequence[str]) -> dict[str, Any]:
    """What corresponds in spans of unequal lengths, and in how many pairs each of some spans is such a one."""
    unlike = {name: sum(name in each and not each[name].alike for each in task.spans) for name in names}
    told = ", ".join(f"{name} in {n} of {len(task)} pairs" for name, n in unlike.items() if n)
    return {"align": task.align, "unequal": told} if told else {}


def dictionary_settings(lm: Model, *kinds: str) -> dict[str, Any]:
    """The dictionaries whose parts units of some kinds are, in words and as a hash; nothing of other kinds."""
    codes = {key: lm.decoder.codes[key] for key in sorted(lm.decoder.codes) if key[0] in kinds}
    if not codes:
        return {}
    every = [code.dictionary for code in codes.values()]
    told = [f"{one!r} ({one.source})" if one.source else repr(one) for one in every]
    digest = hashlib.sha256(json.dumps([[*key, code.digest] for key, code in codes.items()]).encode())
    return {"dictionary": "; ".join(told), "dictionary_digest": digest.hexdigest()[:12]}


def replacement_of(scores: Scores) -> str | None:
    """What replaces a unit in the effect that scores are or estimate; None where the header does not say."""
    baseline, ablation = (scores.settings.get(name) for name in ("baseline", "ablation"))
    return str(BASELINES.get(baseline, baseline) if baseline else ablation) if baseline or ablation else None


def estimand(scores: Scores) -> dict[str, str]:
    """What the numbers are about, beside the model. What a header does not say is left out."""
    settings = scores.settings
    found = {
        "directions": scores.direction,
        "tasks": scores.task["digest"],
    }
    replacement = replacement_of(scores)
    if replacement is not None:
        found["replacements"] = replacement
    if replacement in REFERRING:
        found["reference sets"] = str(settings.get("reference_digest", UNRECORDED))
    if "replacement_digest" in settings:
        found["replacements of your own"] = f"{settings['replacement_digest']} × {settings.get('scale', 1.0)}"
    if replacement == "resample":
        found["seeds of resampling"] = str(settings.get("seed", UNRECORDED))
    if "spans_digest" in settings:
        found["places of the spans"] = str(settings["spans_digest"])
    if "dictionary_digest" in settings:
        found["dictionaries"] = str(settings["dictionary_digest"])
    if replacement == "optimal":
        found["learned constants"] = str(settings.get("constants", UNRECORDED))
    return found


def require_comparable(estimate: Scores, exact: Scores, *, across: tuple[str, ...] = ()) -> None:
    """Raise UnitError or MethodError unless both are about one kind of unit and one quantity (`estimand`).

    `across`: differences that are meant, such as ("replacements", "reference sets").
    """
    if estimate.units.kind != exact.units.kind:
        raise UnitError(f"The scores are about {estimate.units.kind} and {exact.units.kind}; compare one kind.")
    if differing := difference(estimate.model["identity"], exact.model["identity"]):
        raise MethodError(
            f"The scores have different models (other {differing}: {estimate.model['source']!r} and "
            f"{exact.model['source']!r}, as they were), so their units' numbers do not correspond. Compute both with "
            "the same model, task, direction and replacement."
        )
    one, other = estimand(estimate), estimand(exact)
    for what in one.keys() & other.keys() - set(across):
        if one[what] != other[what]:
            raise MethodError(
                f"The scores have different {what} ({_told(what, estimate, one)} and {_told(what, exact, other)}), so "
                "their units' numbers do not correspond. Compute both with the same model, task, direction and "
                "replacement."
            )
    _require_same_behaviour(estimate, exact)


def _require_same_behaviour(estimate: Scores, exact: Scores) -> None:
    """Raise MethodError where the two models gave other metrics of the same prompts; NaN is not known."""
    one, other = (torch.stack([scores.clean, scores.corrupted]).double() for scores in (estimate, exact))
    if one.shape != other.shape or one.isnan().any() or other.isnan().any():
        return
    if not same_ends(one, other, exact.model.get("dtype", "")):
        raise MethodError(
            f"The models of the scores behaved differently: their metrics of the same prompts differ by up to "
            f"{float((one - other).abs().max()):.3g}, although weights, configuration and hooks are the same. Compute "
            "both anew."
        )


def _told(what: str, scores: Scores, own: dict[str, str]) -> str:
    """A setting as an error names it: a reference set in words, with its hash."""
    words = scores.settings.get("reference") if what == "reference sets" else None
    return f"{own[what]!r}, {words}" if words else repr(own[what])


def start_settings(start: Scores | None) -> dict[str, Any]:
    """The scores that another computation starts from, by method and as a hash of their importances."""
    if start is None:
        return {"start": None}
    digest = hashlib.sha256(start.importance().double().numpy().tobytes()).hexdigest()[:12]
    return {"start": start.method, "start_digest": digest}

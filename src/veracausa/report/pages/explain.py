"""Plain-words explanations of metrics, signs, methods and figures, shown on demand."""

from __future__ import annotations

from collections.abc import Iterable

from veracausa.scores.agreement import label
from veracausa.scores.scores import Scores

METRICS = {
    "logit_diff": "logit difference: mean logit of the correct answers minus mean logit of the incorrect ones",
    "logit_diff_lse": "logit difference: log-sum-exp over the correct answers minus the same over the incorrect ones",
    "logit_diff_max": "logit difference: mean logit of the correct answers minus the largest logit of any other token",
    "logit": "mean logit of the correct answers",
    "logit_lse": "log-sum-exp of the correct answers' logits",
    "logprob": "log-probability of the correct answers",
    "prob": "probability of the correct answers",
    "prob_diff": "probability of the correct answers minus probability of the incorrect ones",
    "entropy": "entropy of the prediction, in nats: how open it is",
    "neg_kl": "minus the KL divergence from the clean run's prediction",
    "neg_kl_reverse": "minus the KL divergence of the clean run's prediction from this one",
    "neg_js": "minus the Jensen–Shannon divergence from the clean run's prediction",
}


def metric_in_words(name: str) -> str:
    """What a metric is, with its temperature if it has one; a function of the user's is its own name."""
    base, at, temperature = name.rpartition("_t")
    warm = METRICS[base] + f", at temperature {temperature}" if at and base in METRICS else name
    return METRICS.get(name, warm)


SIGNS = {
    "noising": "Every effect is M(clean run with the unit replaced) − M(clean run), shown as a share of the gap: "
    "negative means that the unit supported the behaviour, −0.25 that a quarter of it goes without the unit.",
    "denoising": "Every effect is M(corrupted run with the unit restored) − M(corrupted run), shown as a share of the "
    "gap: positive means that the unit supports the behaviour, +0.25 that it alone brings back a quarter.",
}

READING = (
    (
        "Colours and places",
        "Blue supports the behaviour, orange works against it, on every figure; where numbers are effects of noising, "
        "blue is negative, since replacing what supports the behaviour lowers the metric. Magnitudes and differences "
        "between methods are grey. Early layers are at the bottom, in maps as in drawings of circuits.",
    ),
    (
        "Exact effect",
        "The unit's activation is replaced, everything behind it is computed again, and the metric is read. No "
        "approximation: it is what the methods below try to predict.",
    ),
    (
        "r, Spearman, slope",
        "Pearson's correlation of the estimates with the exact effects, the same for ranks, and the least-squares "
        "slope (1: right size; 0.5: half the size).",
    ),
    ("Jaccard@k", "Of the k strongest units by either list: how many both have, divided by how many either has."),
    (
        "Sign errors",
        "Among strong units (exact effect over 1 % of the gap), how many have the wrong sign in the estimate.",
    ),
    (
        "Mean–difference",
        "Bland–Altman: estimate − exact, over the mean of both. Bias is the mean difference; 95 % of normally spread "
        "differences lie within bias ± 1.96 SD; units outside are outliers. Proportional bias: the difference grows "
        "(+) or shrinks (−) with the size of the effect.",
    ),
    (
        "Token-layers",
        "One token through one block forward is 1, backward 1 more. A count, the same on every machine.",
    ),
)

CIRCUITS = (
    (
        "Circuit",
        "A set of edges, each a writer of the residual stream seen by one reader. In its run every reader sees the "
        "circuit's edges anew, and on all others what the corrupted run wrote.",
    ),
    (
        "f",
        "Faithfulness: (M(circuit) − M(corrupted)) / (M(model) − M(corrupted)), means over pairs. 1: as the model; "
        "over 1: it overshoots, because what works against the behaviour was left out.",
    ),
    (
        "KL, NDF",
        "KL: divergence of the circuit's prediction from the model's. NDF: 1 − |M(model) − M(circuit)| / |gap|, at "
        "least 0, pair by pair.",
    ),
    (
        "CPR, CMD",
        "Areas over the share of edges kept: under f by signed importance (CPR), of |1 − f| by |score| (CMD, 0 is "
        "best). On a linear axis most of the area is that of large circuits; on the log axis all sizes count alike.",
    ),
    (
        "Not verified",
        "A score is an estimate from gradients. Only where an exact effect stands beside it is it known to be right.",
    ),
    *READING[-1:],
)

_PATHS = {
    "point": "one slope, taken at the run's own activations and multiplied by the change of activation (attribution "
    "patching): as if the metric were a straight line in every activation",
    "layer": "integrated gradients along a straight path on which all units of a layer move together to their "
    "replacement; the scores of a layer add up to the effect of replacing the whole layer",
    "encoded": "integrated gradients along a straight path of what a dictionary reads; its features are encoded anew "
    "at every step, so that they come and go on the way, and with the error their scores add up to the site's effect",
    "unit": "integrated gradients along each unit's own path, while all others stay; with many points the exact effect",
    "inputs": "gradients at points on the straight way between both prompts' embeddings",
    "draws": "gradients at random points on the straight way between both prompts' embeddings (expected gradients)",
    "gradpath": "gradients at points that follow the model's own gradient from one prompt's embeddings towards the "
    "other's output, in steps of fixed length (EAP-GP as published)",
    "gradpath-complete": "gradients at points that follow the model's own gradient and are pulled to the other "
    "prompt's embeddings, so that the path ends there",
    "geodesic": "gradients along a path between both prompts' embeddings that is bent away from steep regions",
}
_RULES = {
    "gim": "GIM's backward rule (frozen norms, softer softmax, gradients into queries, keys, values and gates scaled "
    "down)",
    "relp": "RelP's backward rule (frozen norm denominators, activations taken as linear in their input, gates halved)",
    "qk-exact": "attention patterns recomputed exactly for queries and keys",
    "graddrop": "mean magnitude over passes that each drop one other layer",
    "qk-exact+graddrop": "AtP*: attention patterns recomputed exactly for queries and keys, and mean magnitude over "
    "passes that each drop one other layer",
}
_COMBINATIONS = {
    "increments": "each step's change of activation times the gradient there (conductance)",
    "left-increments": "each step's change of activation times the gradient at its start",
}
_BASELINES = {
    "corrupted": "units move to their value in the corrupted run, as in the exact effects",
    "zero": "units move to zero, not to their value in the corrupted run: a different question from the exact one",
    "mean": "units move to their mean over the prompts, not to their value in the corrupted run: a different question "
    "from the exact one",
    "resample": "units move to their value in another prompt, not to that in the corrupted run: a different question "
    "from the exact one",
    "optimal": "units move to the constant that lets the model do best without them, not to their value in the "
    "corrupted run: a different question from the exact one",
}


def sign_of(scores: Iterable[Scores]) -> str:
    """The sign convention of a section's effects, in one sentence."""
    direction = next((one.direction for one in scores), "noising")
    return SIGNS.get(direction, direction)


def method_of(scores: Scores) -> tuple[str, str]:
    """Name and explanation of a method, from its settings."""
    settings = scores.settings
    if scores.method == "exact":
        ablation = settings.get("ablation", "counterfactual")
        return "exact", f"{READING[0][1]} Units are replaced by: {ablation}."
    parts = [_PATHS.get(str(settings.get("path")), f"path {settings.get('path', 'unknown')}")]
    if settings.get("nodes"):
        grid = f" ({settings['grid']} grid)" if settings.get("grid") else ""
        parts.append(f"{settings['nodes']} points on the path{grid}")
    if settings.get("combine") in _COMBINATIONS and settings.get("path") not in ("layer", "encoded"):
        parts.append(_COMBINATIONS[str(settings["combine"])])
    if baseline := settings.get("baseline"):
        parts.append(_BASELINES.get(str(baseline), f"baseline {baseline}"))
    if settings.get("rule") not in (None, "plain"):
        parts.append(_RULES.get(str(settings["rule"]), f"backward rule {settings['rule']}"))
    if not scores.signed:
        parts.append("it gives magnitudes only, no signs, and is compared with |exact|")
    if scores.completeness is not None:
        worst = scores.completeness.relative(scores.gap)
        parts.append(f"completeness residual at most {worst:.2%} of the gap in any layer")
    text = "; ".join(parts)
    return label(scores), f"{text[0].upper()}{text[1:]}."

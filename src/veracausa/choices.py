"""Arguments that are one of a few words, as types: editors complete them, and type checkers refuse all others.

What each word means stands in the tables of those who use it (`estimands.ABLATIONS`, `presets.PRESETS`,
`metrics.METRICS` …); `tests/test_choices.py` holds the words here to those there.
"""

from __future__ import annotations

from typing import Literal

#: Of which run an effect is.
Direction = Literal["noising", "denoising"]
#: What a unit is replaced by.
Ablation = Literal["counterfactual", "zero", "mean", "resample", "optimal"]
#: What units move towards on curves, and what closed gates of a mask let through.
TwoAblations = Literal["counterfactual", "zero"]
#: What units move towards in an estimate.
Baseline = Literal["corrupted", "zero", "mean", "resample", "optimal"]
#: What the behaviour is measured by.
MetricName = Literal[
    "logit_diff", "logit_diff_lse", "logit_diff_max", "logit", "logit_lse", "logprob", "prob", "prob_diff", "entropy",
    "neg_kl", "neg_kl_reverse", "neg_js",
]  # fmt: skip

#: Circuits of GPT-2 small by name, from papers.
PublishedCircuit = Literal["ioi-gpt2", "greater-than-gpt2"]
#: How a chart that stands alone looks.
Look = Literal["light", "dark", "paper"]

#: What becomes of the several positions at which a metric is read.
Over = Literal["mean", "sum", "product"]

#: All units of a kind, each at all positions or one by one at each.
AllUnits = Literal[
    "heads", "mlps", "attention", "neurons", "residual", "queries", "keys", "values", "patterns", "experts", "shared",
    "routers", "expert_neurons", "adapters", "layer_adapters", "gates", "layer_gates",
    "states@positions", "taps@positions",
    "edges", "gates@positions", "layer_gates@positions", "gates@spans", "layer_gates@spans",
    "adapters@positions", "layer_adapters@positions", "adapters@spans", "layer_adapters@spans",
    "features", "directions", "features@positions", "directions@positions", "features@spans", "directions@spans",
    "components", "components@positions", "components@spans",
    "mixers", "mixer_heads", "channels", "mixers@positions", "mixer_heads@positions", "channels@positions",
    "mixers@spans", "mixer_heads@spans", "channels@spans",
    "heads@positions", "mlps@positions", "attention@positions", "neurons@positions", "residual@positions",
    "queries@positions", "keys@positions", "values@positions", "patterns@positions",
    "patterns@cells", "experts@positions", "shared@positions", "routers@positions", "expert_neurons@positions",
    "edges@positions",
    "heads@spans", "mlps@spans", "attention@spans", "neurons@spans", "residual@spans", "queries@spans", "keys@spans",
    "values@spans", "patterns@spans", "experts@spans", "shared@spans", "routers@spans", "expert_neurons@spans",
]  # fmt: skip

#: Published estimates by name, of nodes and of edges.
Estimate = Literal[
    "atp", "atp-star", "ig", "eap-ig", "conductance", "ceap", "eap-gp", "gradpath-complete", "expected-gradients",
    "geodesic-ig", "gim", "relp", "eap", "qk-exact", "eap-ig-activations", "ifr",
]  # fmt: skip
#: What scores the edges of a discovery.
EdgeScoring = Literal[
    "eap", "qk-exact", "eap-ig-activations", "eap-ig", "conductance", "ceap", "eap-gp", "gradpath-complete",
    "expected-gradients", "geodesic-ig", "gim", "relp", "ifr", "iterated", "balanced", "settled", "guarded",
    "learned", "matryoshka", "bottleneck", "adversarial", "edge-pruning", "ugs", "discogp", "exact",
]  # fmt: skip
#: Parts of an estimate.
PathName = Literal["point", "inputs", "draws", "gradpath", "gradpath-complete", "geodesic", "layer", "encoded", "unit"]
RuleName = Literal["plain", "gim", "relp", "qk-exact", "graddrop", "qk-exact+graddrop"]
Combination = Literal["mean", "increments", "left-increments"]
GridName = Literal["gauss", "trapezoid", "midpoint", "left", "right", "published"]

#: How edges are selected, and by which of their numbers units are ranked.
Selection = Literal["connected", "top", "abs", "greedy", "optimal", "iterated"]
EdgeRanking = Literal["abs_mean", "importance"]
IteratedBy = Literal["abs_mean", "importance", "balanced"]
Ranking = Literal["abs_mean", "mean_abs", "importance"]
#: What the output is judged by while a circuit is being found.
Loss = Literal["kl", "metric"]
#: In which order ACDC tries edges; what minimality takes out.
WriterOrder = Literal["late", "early", "random", "weakest"]
CircuitParts = Literal["edges", "nodes"]
#: How gates are learned: ways that have a name, and the parts that they are composed of.
LearnedBy = Literal[
    "share", "top-k", "matryoshka", "adversarial", "edge-pruning", "ugs", "discogp", "bottleneck",
    "node-pruning", "subnetwork-probing",
]  # fmt: skip
GateName = Literal["hard-concrete", "straight-through", "uniform", "sigmoid", "noise"]
GateHold = Literal["share", "lagrangian", "price", "budget"]
#: What of a sheaf is learned, one after the other or at once.
SheafBy = Literal["sequential", "joint", "weights"]
MaskLoss = Literal["kl", "metric", "bounded", "margin", "answers"]
MaskAim = Literal["sufficient", "cause", "both", "complete"]
BudgetSizes = Literal["fixed", "log", "mixed"]
#: What an adversary may do to what a circuit leaves out, what it is after, and where it starts.
AttackBudget = Literal["sparse", "bounded", "free"]
AttackGoal = Literal["away", "down", "up"]
AttackStart = Literal["zero", "half", "random"]
#: What a scoreboard runs for every ranking.
BoardPart = Literal["curve", "cause", "adversary", "specificity"]

#: What ranks parts that are cut out for good, and what stands in their place.
CutRanking = Literal["fgp", "exact-mean", "exact-zero", "atp-mean", "atp-zero", "wanda", "magnitude", "random"]
CutAblation = Literal["zero", "mean"]

#: What becomes of pairs that do not fit a tokenizer.
Unequal = Literal["refuse", "skip"]
#: What corresponds in spans of unequal lengths.
Align = Literal["last", "mean"]

#: Which prompts of pairs a reference set takes.
PairPrompts = Literal["both", "clean"]

#: What causal tracing restores.
Restored = Literal["residual", "mlps", "attention"]

#: How an interaction of two layers is found, what responds between them, what sources are replaced by (all at once, so
#: that neither donors nor learned constants are known), and whose products are taken.
InteractionMethod = Literal["ig", "gradient", "exact"]
InteractionWay = Literal["whole", "direct"]
InteractionAblation = Literal["counterfactual", "zero", "mean"]
ProductMode = Literal["auto", "forward", "reverse"]
#: How edges between layers are weighed.
EdgeWeight = Literal["share", "raw", "log"]

#: How much a study does.
LevelName = Literal["quick", "default", "full"]
#: Built-in tasks, and how the corrupted prompts are made of those that have several kinds.
TaskName = Literal[
    "ioi", "greater-than", "subject-verb", "gendered-pronoun", "capital-country", "hypernymy", "induction", "docstring",
    "coloured-objects", "multiple-choice", "arithmetic", "factual-recall", "negation", "sentiment",
]  # fmt: skip
IoiCorruption = Literal["swap", "third", "abc", "order", "words"]
GreaterThanCorruption = Literal["01", "year"]
InductionCorruption = Literal["last", "target", "unrelated"]
DocstringCorruption = Literal["definition", "docstring", "unrelated"]
ColouredObjectsCorruption = Literal["question", "colours", "new"]
MultipleChoiceCorruption = Literal["permuted", "symbols", "fact"]
ArithmeticCorruption = Literal["operand", "operands", "operation"]
FactualRecallCorruption = Literal["subject", "relation", "paraphrase"]
NegationCorruption = Literal["affirmed", "opposite"]
SentimentCorruption = Literal["both", "adjective", "verb"]

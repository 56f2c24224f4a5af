"""Circuits: sets of edges, how they are found, and how well they explain a behaviour."""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.circuits.attacks.attack import Attack as Attack
    from veracausa.circuits.attacks.attacking import adversary as adversary
    from veracausa.circuits.comparison import CircuitComparison as CircuitComparison
    from veracausa.circuits.exchange.eap_json import scores_from_eap_json as scores_from_eap_json
    from veracausa.circuits.exchange.formats import read as read
    from veracausa.circuits.exchange.formats import write as write
    from veracausa.circuits.featured import FeatureCircuit as FeatureCircuit
    from veracausa.circuits.known import published as published
    from veracausa.circuits.quality.across_tasks import specificity as specificity
    from veracausa.circuits.quality.cause_curve import CauseCurve as CauseCurve
    from veracausa.circuits.quality.cause_curve import cause_curve as cause_curve
    from veracausa.circuits.quality.completeness import Completeness as Completeness
    from veracausa.circuits.quality.completeness import completeness as completeness
    from veracausa.circuits.quality.curve import Curve as Curve
    from veracausa.circuits.quality.faithfulness import Faithfulness as Faithfulness
    from veracausa.circuits.quality.hypotheses import CircuitTests as CircuitTests
    from veracausa.circuits.quality.hypotheses import Verdict as Verdict
    from veracausa.circuits.quality.hypotheses import tests as tests
    from veracausa.circuits.quality.minimality import Minimality as Minimality
    from veracausa.circuits.quality.minimality import minimality as minimality
    from veracausa.circuits.quality.part_curve import PartCurve as PartCurve
    from veracausa.circuits.quality.part_curve import part_curve as part_curve
    from veracausa.circuits.quality.specificity import Specificity as Specificity
    from veracausa.circuits.scoreboards.board import Scoreboard as Scoreboard
    from veracausa.circuits.scoreboards.judging import scoreboard as scoreboard
    from veracausa.circuits.selection.acdc import acdc as acdc
    from veracausa.circuits.selection.iterated import iterate as iterate
    from veracausa.circuits.selection.learned import learn as learn
    from veracausa.circuits.selection.sparse_features import feature_circuit as feature_circuit
    from veracausa.circuits.selection.stability import CircuitStability as CircuitStability
    from veracausa.circuits.selection.stability import stability as stability
    from veracausa.circuits.sheaves.finding import run_sheaf as run_sheaf
    from veracausa.circuits.sheaves.finding import sheaf as sheaf
    from veracausa.circuits.sheaves.found import Sheaf as Sheaf

#: Public name → where it lives.
_HOMES = {
    "Attack": "veracausa.circuits.attacks.attack",
    "CauseCurve": "veracausa.circuits.quality.cause_curve",
    "CircuitComparison": "veracausa.circuits.comparison",
    "CircuitStability": "veracausa.circuits.selection.stability",
    "CircuitTests": "veracausa.circuits.quality.hypotheses",
    "Completeness": "veracausa.circuits.quality.completeness",
    "Curve": "veracausa.circuits.quality.curve",
    "FeatureCircuit": "veracausa.circuits.featured",
    "Faithfulness": "veracausa.circuits.quality.faithfulness",
    "Minimality": "veracausa.circuits.quality.minimality",
    "PartCurve": "veracausa.circuits.quality.part_curve",
    "Scoreboard": "veracausa.circuits.scoreboards.board",
    "Sheaf": "veracausa.circuits.sheaves.found",
    "Specificity": "veracausa.circuits.quality.specificity",
    "Verdict": "veracausa.circuits.quality.hypotheses",
    "adversary": "veracausa.circuits.attacks.attacking",
    "acdc": "veracausa.circuits.selection.acdc",
    "cause_curve": "veracausa.circuits.quality.cause_curve",
    "completeness": "veracausa.circuits.quality.completeness",
    "feature_circuit": "veracausa.circuits.selection.sparse_features",
    "iterate": "veracausa.circuits.selection.iterated",
    "learn": "veracausa.circuits.selection.learned",
    "minimality": "veracausa.circuits.quality.minimality",
    "part_curve": "veracausa.circuits.quality.part_curve",
    "published": "veracausa.circuits.known",
    "read": "veracausa.circuits.exchange.formats",
    "run_sheaf": "veracausa.circuits.sheaves.finding",
    "scoreboard": "veracausa.circuits.scoreboards.judging",
    "scores_from_eap_json": "veracausa.circuits.exchange.eap_json",
    "sheaf": "veracausa.circuits.sheaves.finding",
    "specificity": "veracausa.circuits.quality.across_tasks",
    "stability": "veracausa.circuits.selection.stability",
    "tests": "veracausa.circuits.quality.hypotheses",
    "write": "veracausa.circuits.exchange.formats",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

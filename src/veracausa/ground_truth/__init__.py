"""Models whose circuits are known, eight compiled and one trained; one whose features are known; and three of which the
parts of a map of weights are known.

>>> lm, program = vc.ground_truth.load_compiled("sort")          # or vc.ground_truth.load_trained()
>>> task, true_edges = program.task(n=64), program.edges
>>> vc.ground_truth.recovery(vc.attribute(lm, task, units="edges", method="eap"), program)
"""

from typing import TYPE_CHECKING

from veracausa.lazy import given_out

if TYPE_CHECKING:
    from veracausa.ground_truth.bottleneck import Bottleneck as Bottleneck
    from veracausa.ground_truth.bottleneck import load_bottleneck as load_bottleneck
    from veracausa.ground_truth.by_hand import KnownParts as KnownParts
    from veracausa.ground_truth.compressed import Compressed as Compressed
    from veracausa.ground_truth.compressed import load_compressed as load_compressed
    from veracausa.ground_truth.gated import Gated as Gated
    from veracausa.ground_truth.gated import load_gated as load_gated
    from veracausa.ground_truth.known import Known as Known
    from veracausa.ground_truth.known import Pair as Pair
    from veracausa.ground_truth.programs import Program as Program
    from veracausa.ground_truth.recovered import Recovery as Recovery
    from veracausa.ground_truth.recovered import recovery as recovery
    from veracausa.ground_truth.registers import Registers as Registers
    from veracausa.ground_truth.stored import COMPILED as COMPILED
    from veracausa.ground_truth.stored import load_compiled as load_compiled
    from veracausa.ground_truth.superposed import FeaturesFound as FeaturesFound
    from veracausa.ground_truth.superposed import Superposition as Superposition
    from veracausa.ground_truth.superposed import features_found as features_found
    from veracausa.ground_truth.superposed import load_superposed as load_superposed
    from veracausa.ground_truth.trained import load_trained as load_trained

#: Public name → where it lives.
_HOMES = {
    "Bottleneck": "veracausa.ground_truth.bottleneck",
    "COMPILED": "veracausa.ground_truth.stored",
    "Compressed": "veracausa.ground_truth.compressed",
    "FeaturesFound": "veracausa.ground_truth.superposed",
    "Gated": "veracausa.ground_truth.gated",
    "Known": "veracausa.ground_truth.known",
    "KnownParts": "veracausa.ground_truth.by_hand",
    "Pair": "veracausa.ground_truth.known",
    "Program": "veracausa.ground_truth.programs",
    "Recovery": "veracausa.ground_truth.recovered",
    "Registers": "veracausa.ground_truth.registers",
    "Superposition": "veracausa.ground_truth.superposed",
    "features_found": "veracausa.ground_truth.superposed",
    "load_bottleneck": "veracausa.ground_truth.bottleneck",
    "load_compiled": "veracausa.ground_truth.stored",
    "load_compressed": "veracausa.ground_truth.compressed",
    "load_gated": "veracausa.ground_truth.gated",
    "load_superposed": "veracausa.ground_truth.superposed",
    "load_trained": "veracausa.ground_truth.trained",
    "recovery": "veracausa.ground_truth.recovered",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # a misspelt name is an error to type checkers, too
    __getattr__, __dir__ = given_out(__name__, _HOMES)

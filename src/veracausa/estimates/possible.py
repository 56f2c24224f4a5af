"""Which units, paths, rules and baselines mean something together, and the words for those that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from veracausa.choices import Direction
from veracausa.dictionaries.words import is_coded
from veracausa.effects.crossing_rows import require_one_layer
from veracausa.effects.patterns import require_patterns
from veracausa.effects.replacements import require_effect
from veracausa.engine.rules import require_reached
from veracausa.errors import MethodError
from veracausa.estimates.method import Method
from veracausa.estimates.parts import PATHS
from veracausa.scores.estimands import BASELINES
from veracausa.units.edges import Edges
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def require_known(
    lm: Model, task: Task, table: Units, name: str, parts: Method, direction: Direction, reference: Task | None
) -> None:
    """MethodError where an estimate (`name`, of these `parts`) of these units means nothing: why, and what does."""
    require_reached(lm.decoder, parts.backward)
    if "graddrop" in parts.rule and lm.layers == 1:
        raise MethodError(
            f"graddrop averages over passes that drop another layer's gradient, but {lm.name} has one layer. Use "
            "rule='plain' or 'qk-exact'."
        )
    ablation = BASELINES[parts.baseline]
    if ablation == "resample" and table.positional:
        raise MethodError("baseline='resample' draws one prompt a unit: at single positions take vc.exact instead.")
    require_effect(ablation, direction)
    if not isinstance(table, Edges):
        require_patterns([table.place], ablation, task, reference or task)
    if is_coded(table.kind) and (ablation in ("resample", "optimal") or "graddrop" in parts.rule):
        raise MethodError(
            f"method={name!r} with baseline={parts.baseline!r} is not known for {table.kind}: their baselines are "
            "corrupted, zero and mean, and no rule drops gradients. vc.exact takes ablation='resample', too."
        )
    if PATHS[parts.path].moves == "input":
        lm.decoder.require_stream_alone(f"method={name!r}, whose path moves the embeddings,")
    if table.joint:
        require_one_layer(lm, table.kind, "Estimates of coalitions are")
    if parts.path == "encoded":
        _require_encoded(lm, table, parts, name)
    _require_parts(table, name, parts)


def _require_parts(table: Units, name: str, parts: Method) -> None:
    """MethodError for experts, their neurons and adapters where a path or a baseline is not known for them."""
    ablation = BASELINES[parts.baseline]
    if table.kind == "expert_neurons" and parts.combine != "mean" and PATHS[parts.path].moves not in ("site", "unit"):
        raise MethodError(
            f"method={name!r} follows activations along a path of the input, on which experts, and their neurons with "
            "them, come and go. For neurons of experts take one that averages slopes ('atp', 'eap-ig') or moves them "
            "alone ('ig'), or vc.exact."
        )
    if table.kind == "expert_neurons" and ablation == "resample":
        raise MethodError(
            "baseline='resample' is not known for neurons of experts, each of which has a donor of its own. Take "
            "corrupted, zero or mean, or vc.exact(…, ablation='resample')."
        )
    if table.kind == "layer_adapters" and PATHS[parts.path].moves not in ("site", "unit"):
        raise MethodError(
            f"method={name!r} takes each gradient while all else is live, but a layer's adapters are set together. "
            "Take 'ig', or its first point alone: vc.Method(path='layer', grid='left', nodes=1). Or single adapters."
        )
    if table.kind == "adapters" and ablation == "resample":
        raise MethodError(
            "baseline='resample' is not known for adapters, which are of several sizes in a layer. Take corrupted, "
            "zero or mean, or vc.exact(…, ablation='resample')."
        )


def _require_encoded(lm: Model, table: Units, parts: Method, name: str) -> None:
    """MethodError unless what moves along the path can be encoded on the way."""
    if not is_coded(table.kind):
        raise MethodError(f"path='encoded' is of parts of dictionaries; for {table.kind} take path='layer'.")
    if parts.baseline != "corrupted":
        raise MethodError(
            f"method={name!r} with path='encoded' and baseline={parts.baseline!r} means nothing: what a site without "
            "its features is encoded as is not 0. Take baseline='corrupted', or path='layer'."
        )
    for layer in dict.fromkeys(table.layer.tolist()):
        dictionary = lm.decoder.codes[table.kind, layer].dictionary
        if dictionary.transcodes:
            raise MethodError(
                f"path='encoded' moves what a dictionary explains, but {table.names[0]} reads {dictionary.reads.name}, "
                f"which {dictionary.writes.name} does not change. Take path='layer'."
            )

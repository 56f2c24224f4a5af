"""Kinds of units: where they are, how many a layer has, what they are called; one plain table for all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from veracausa.dictionaries.components import KIND, component_name
from veracausa.dictionaries.words import ERROR, SKIP, index_word
from veracausa.module_names import module_name

Kind = Literal[
    "heads", "mlps", "attention", "neurons", "residual", "queries", "keys", "values", "patterns",
    "experts", "shared", "routers", "expert_neurons", "mixers", "mixer_heads", "channels", "features", "directions",
    "components", "adapters", "layer_adapters", "gates", "layer_gates", "states", "taps", "edges", "groups", "paths",
]  # fmt: skip


@dataclass(frozen=True)
class UnitKind:
    """A kind of unit.

    `place`: where in a block its activation is (see `engine.patches`). `name`: how one is called, made of its `layer`
    and, where a layer has several, its `index`. `singular`, `meaning`: in words. `per_layer`: what a model calls the
    number of them in a layer, side by side in their site (None: one a layer). `part`: which part of a block has them,
    and so which layers: see `Decoder.layers_with`. `inside`: a unit is a neuron of an expert; its index says which of
    both (`inside_index`). `coded`: a unit is a part of a dictionary, which the user lays on the model; its index is the
    "number" of a feature, or the "word" that a direction is called (`dictionaries.words`); beside these `ERROR` and
    `SKIP`. Of a "component" of weights the place says the rest (`dictionaries.components`). Of an adapter it stands
    for the "module" that this is on (`module_names`). `carried`: a unit is what is carried away from one position, so
    there is none at all positions together.

    >>> KINDS["heads"].called(9, 6)
    'a9.h6'
    """

    place: str
    name: str
    singular: str
    meaning: str
    per_layer: Literal["heads", "kv_heads", "neurons", "experts", "mixer_heads", "channels"] | None = None
    part: Literal["attention", "mixer", "mlp", "experts", "stream", "dictionary", "adapters"] = "attention"
    inside: bool = False
    coded: Literal["number", "word", "component", "module"] | None = None
    carried: bool = False

    def called(self, layer: int, index: int) -> str:
        """The name of one unit, without a position."""
        if self.coded == "component":
            return component_name(self.place, int(layer), int(index))
        if self.coded:
            return self.name.format(layer=layer, index=self._told(index))
        if self.inside:
            index, neuron = divmod(index, _NEURONS)
            return self.name.format(layer=layer, index=index, neuron=neuron)
        return self.name.format(layer=layer, index=index)

    def _told(self, index: int) -> str:
        """A part of a dictionary, or the module of an adapter, behind its layer."""
        if self.coded == "module":
            return module_name(int(index))
        beside = {ERROR: "error", SKIP: "skip"}.get(int(index))
        return beside or (index_word(int(index)) if self.coded == "word" else str(index))


#: More neurons than any expert has: indices count neurons expert by expert in steps of it, whatever the model.
_NEURONS = 1 << 20


def inside_index(expert: Any, neuron: Any) -> Any:
    """The index of a neuron of an expert, numbers or arrays of them.

    >>> inside_index(3, 12), inside_of(inside_index(3, 12))
    (3145740, (3, 12))
    """
    return expert * _NEURONS + neuron


def inside_of(index: Any) -> tuple[Any, Any]:
    """Expert and neuron of such an index."""
    return index // _NEURONS, index % _NEURONS


class _Kinds(dict[str, UnitKind]):
    """Kinds by name; of dictionaries that have a name of their own, too: "features.mlp" has units `f10.mlp.1234`."""

    def __missing__(self, kind: str) -> UnitKind:
        if kind not in self:
            raise KeyError(kind)
        slot, _, name = kind.partition(".")
        own = self[slot]
        if slot == "components":
            return replace(own, place=kind)
        return replace(own, place=kind, name=own.name.replace("}.", f"}}.{name}.", 1))

    def __contains__(self, kind: object) -> bool:
        found = _NAMED.fullmatch(kind) if isinstance(kind, str) else None
        found = found or (KIND.fullmatch(kind) if isinstance(kind, str) else None)
        return found is not None if isinstance(kind, str) and "." in kind else super().__contains__(kind)


_NAMED = re.compile(r"(features|directions)\.[a-z_][a-z0-9_]*")

KINDS: dict[str, UnitKind] = _Kinds({
    "heads": UnitKind(
        "z", "a{layer}.h{index}", "head", "attention heads (their value z, the input of the output projection)", "heads"
    ),
    "mlps": UnitKind("mlp", "m{layer}", "MLP", "MLPs (their output)", part="mlp"),
    "attention": UnitKind("z", "a{layer}", "attention layer", "whole attention layers (all heads of a layer)"),
    "neurons": UnitKind(
        "neurons", "m{layer}.n{index}", "neuron", "MLP neurons (post-activation: the input of the down projection)",
        "neurons", "mlp",
    ),
    "residual": UnitKind(
        "residual", "r{layer}", "residual stream", "the residual stream at a layer (the input of a block)",
        part="stream",
    ),
    "queries": UnitKind("queries", "a{layer}.h{index}<q>", "head", "queries of heads", "heads"),
    "keys": UnitKind(
        "keys", "a{layer}.kv{index}<k>", "kv",
        "keys of key/value heads (a key changes all query heads of its group)", "kv_heads",
    ),
    "values": UnitKind(
        "values", "a{layer}.kv{index}<v>", "kv", "values of key/value heads (before the attention pattern)", "kv_heads"
    ),
    "patterns": UnitKind(
        "pattern", "a{layer}.h{index}<pattern>", "head",
        "attention patterns of heads (who looks where, behind the softmax; the values stay)", "heads",
    ),
    "experts": UnitKind(
        "experts", "m{layer}.e{index}", "expert",
        "experts of MLPs (what one adds to its MLP's output: routing weight times expert output, 0 where not chosen)",
        "experts", part="experts",
    ),
    "shared": UnitKind(
        "shared", "m{layer}.shared", "shared expert",
        "shared experts (what one that sees every token adds to its MLP's output)", part="experts",
    ),
    "routers": UnitKind(
        "router", "m{layer}.router", "router",
        "routers of MLPs' experts (their logits; which experts are chosen, and with what weights, follows)",
        part="experts",
    ),
    "mixers": UnitKind(
        "channels", "x{layer}", "mixer",
        "whole mixers (state-space layers, recurrences, convolutions: all channels of a layer)", part="mixer",
    ),
    "mixer_heads": UnitKind(
        "channels", "x{layer}.h{index}", "mixer head",
        "heads of mixers (their channels in front of the output projection)",
        "mixer_heads", "mixer",
    ),
    "channels": UnitKind(
        "channels", "x{layer}.c{index}", "channel",
        "channels of mixers (behind the gate: the input of the output projection)",
        "channels", "mixer",
    ),
    "expert_neurons": UnitKind(
        "expert_neurons", "m{layer}.e{index}.n{neuron}", "expert's neuron",
        "neurons of experts (post-activation, where the expert is chosen; its routing weights stay)", part="experts",
        inside=True,
    ),
    "gates": UnitKind(
        "gate", "x{layer}.c{index}<gate>", "gate",
        "gates of mixers' channels (what a channel is multiplied with behind the scan, before any activation)",
        "channels", "mixer",
    ),
    "layer_gates": UnitKind("gate", "x{layer}<gate>", "layer's gates", "all gates of a mixer together", part="mixer"),
    "states": UnitKind(
        "state", "x{layer}<state>", "state",
        "states of mixers at a position (all that the scan carries away from it)", part="mixer", carried=True,
    ),
    "taps": UnitKind(
        "taps", "x{layer}<taps>", "taps",
        "convolution taps of mixers at a position (what later positions' convolutions see of it and of those before)",
        part="mixer", carried=True,
    ),
    "features": UnitKind(
        "features", "f{layer}.{index}", "feature",
        "features of a dictionary that is laid on the model (how much of each there is, times what each writes)",
        part="dictionary", coded="number",
    ),
    "directions": UnitKind(
        "directions", "d{layer}.{index}", "direction",
        "directions in a site's activations (how far these go along each)", part="dictionary", coded="word",
    ),
    "components": UnitKind(
        "components", "m{layer}.{index}", "component",
        "parts of linear maps' weights (singular directions, ranks of adapters, factors of your own, single weights)",
        part="dictionary", coded="component",
    ),
    "adapters": UnitKind(
        "adapters", "lora{layer}.{index}", "adapter",
        "LoRA adapters of linear maps (what all that are active add to one map's output: s B A x)", part="adapters",
        coded="module",
    ),
    "layer_adapters": UnitKind(
        "adapters", "lora{layer}", "layer's adapters", "all LoRA adapters of a layer together", part="adapters",
    ),
})  # fmt: skip


def indexed(kind: str) -> bool:
    """Whether a layer has several units of a kind, side by side in its site; edges have none of their own.

    >>> indexed("heads"), indexed("mlps")
    (True, False)
    """
    return kind in KINDS and (KINDS[kind].per_layer is not None or KINDS[kind].inside or bool(KINDS[kind].coded))


def whole_kind(kind: str) -> str:
    """The kind of which one unit is all units of a kind in a layer.

    >>> whole_kind("heads"), whole_kind("mlps")
    ('attention', 'mlps')
    """
    return {
        "heads": "attention",
        "channels": "mixers",
        "mixer_heads": "mixers",
        "adapters": "layer_adapters",
        "gates": "layer_gates",
    }.get(kind, kind)


def in_words(kind: str) -> str:
    """A kind within a sentence.

    >>> in_words("heads"), in_words("mixer_heads")
    ('heads', 'mixer heads')
    """
    return kind.replace("_", " ")


def singular(kind: str) -> str:
    """One unit of a kind, in a word.

    >>> singular("heads"), singular("edges"), singular("paths")
    ('head', 'edge', 'path')
    """
    return KINDS[kind].singular if kind in KINDS else kind.removesuffix("s")

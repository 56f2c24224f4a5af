"""The names of paths: what reads like one, and what it means in a graph."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from veracausa.anatomy.graph import LOGITS, MIXER, MLP, Graph, K, Q, V
from veracausa.arguments import is_list, shown
from veracausa.dictionaries.components import parse_component
from veracausa.dictionaries.site import Site
from veracausa.engine.path_codes import Coded
from veracausa.errors import UnitError
from veracausa.tasks.spans import NAME as SPAN_NAME
from veracausa.units.dictionaries import parse_feature
from veracausa.units.path_parts import THROUGH, Part, Path, Step, joined
from veracausa.units.spans import Range, is_range, read_range
from veracausa.units.table import Units

_ARROW = re.compile(r"\s*->\s*")
_NUMBER = r"(0|[1-9][0-9]{0,9})"
_MLP, _HEAD = re.compile(f"m{_NUMBER}"), re.compile(rf"a{_NUMBER}\.(h|kv){_NUMBER}(?:<(q|k|v|kv)>)?")
_MIXER, _OF_ALL = re.compile(rf"x{_NUMBER}(?:\.h{_NUMBER})?"), re.compile(rf"a{_NUMBER}<(q|k|kv)>")
_KINDS = {"q": Q, "k": K, "v": V}
#: The last part of an edge's name that is a path's: a head, or one head's own key or value.
_OF_A_HEAD = re.compile(rf"a{_NUMBER}\.h{_NUMBER}(<[kv]>)?")
_LOOK = (
    "Paths look like a5.h5->a8.h6<v>+a9.h9<q>, a5.h5->a8.h6<v>->a9.h9<q>->logits or a5.h5->...->a9.h9<q>->logits, each "
    "part also at positions (a9.h9<q>@7)."
)
_PARTS = (
    "Parts are heads (a9.h6; as readers also a9.h6<q>, a9.h6<k>, a9.h6<v>, a9.kv2<k>, a9.kv2<v>, or a9<q>, a9<k>, "
    "a9<kv> where heads share readers), MLPs (m3), mixers (x4; their heads, x4.h2, as senders), the input as a "
    "sender and the logits as the end, parts of dictionaries (f10.12, f10.error, d10.subject), each but the "
    "logits also at positions (a9.h6<q>@7)."
)
#: (Kind, layer) of dictionaries that are laid on a model → the sites that they read and explain.
Laid = Mapping[tuple[str, int], tuple[str, str]]


def is_path(name: str) -> bool:
    """Whether a name reads like a path, and like no edge: more arrows, several parts, positions of its own, features.

    >>> is_path("a5.h5->a8.h6<v>->logits"), is_path("a5.h5->m8@7"), is_path("a9.h6+m10")
    (True, False, False)
    """
    first, *others = _ARROW.split(name.strip())
    if not others:
        return False
    stem, _, where = others[-1].partition("@")
    ranged = not ((where.isascii() and where.isdigit()) or not where)
    coded = any(parse_feature(one.partition("@")[0].strip()) for one in (first, *others))
    return coded or len(others) > 1 or "+" in name or "@" in first or ranged or _OF_A_HEAD.fullmatch(stem) is not None


def are_paths(units: Any) -> bool:
    """Whether `units` asks for paths: a name of one, a list that holds one, named ones ({"late": "a5.h5->m8"}).

    >>> are_paths(["a5.h5->m8", "a5.h5->m8+m9"]), are_paths({"late": "a5.h5->m8"}), are_paths(["a5.h5->m8"])
    (True, True, False)
    """
    if isinstance(units, Mapping):
        return any("->" in text for text in _texts(units.values()))
    if isinstance(units, Units) or not (isinstance(units, str) or is_list(units)):
        return False
    listed = [units] if isinstance(units, str) else list(units)
    within = [text for one in listed if is_list(one) for text in _texts(one)]
    return any(map(is_path, _texts(listed))) or any("->" in text for text in within)


def _texts(found: Iterable[Any]) -> list[str]:
    """The texts among some values, and in lists among these."""
    return [text for one in found for text in (one if is_list(one) else (one,)) if isinstance(text, str)]


def path_texts(asked: Any) -> tuple[list[str], list[str] | None]:
    """(texts, names of their own or None) of an argument that asks for paths.

    Raises:
        UnitError: something else among them.
    """
    entries = dict(asked) if isinstance(asked, Mapping) else None
    listed = [asked] if isinstance(asked, str) else list(entries.values() if entries is not None else asked)
    for one in listed:
        if is_list(one):
            raise UnitError(
                f"units={shown(one)}: a path is one text, not a list. Join readers that see one sender with +: "
                "'a5.h5->a8.h6<v>+a9.h9<q>'."
            )
        if not isinstance(one, str) or "->" not in one:
            raise UnitError(f"The list mixes paths with {shown(one)}, which is none. {_LOOK} Make two calls.")
    return listed, None if entries is None else [str(name) for name in entries]


def parse_path(graph: Graph, text: str, laid: Laid | None = None) -> Path:
    """A path by its text; `laid`: the dictionaries whose parts it may name.

    Raises:
        UnitError: no path, a part that the graph has not, or an arrow that no change can go along.
    """
    first, *others = [piece.strip() for piece in text.replace("…", THROUGH).split("->")]
    if not others or not all((first, *others)) or THROUGH in (first, others[-1]):
        raise UnitError(f"{shown(text)} is no path: an arrow leads from a part to a part. {_LOOK}")
    sender, steps, through = _parts(graph, text, first, laid or {}), [], False
    for piece in others:
        if piece == THROUGH and through:
            raise UnitError(f"{shown(text)} has nothing between two '{THROUGH}'. Leave one of them out.")
        if piece != THROUGH:
            steps.append(Step(_parts(graph, text, piece, laid or {}), through))
        through = piece == THROUGH
    _require_ends(graph, text, sender, steps)
    for left, step in zip((sender, *(step.parts for step in steps)), steps, strict=False):
        _require_arrow(graph, text, left, step, left is sender)
    if len(steps) > 1 and steps[-1].at_end and steps[-1].through:  # what a path does anyway
        steps.pop()
    return Path(sender, tuple(steps))


def require_path(text: str) -> None:
    """Raise UnitError unless a text reads like a path; which parts a model has is asked later."""
    pieces = [part for piece in _ARROW.split(text.strip().replace("…", THROUGH)) for part in piece.split("+")]
    for stem in (piece.strip().partition("@")[0] for piece in pieces):
        _require_no_component(text, stem)
        known = parse_feature(stem) or any(sort.fullmatch(stem) for sort in (_MLP, _HEAD, _MIXER, _OF_ALL))
        if stem not in ("input", "logits", THROUGH) and not known:
            raise UnitError(f"{shown(stem)} in {shown(text)} is no part of a path. {_PARTS}")


def _require_no_component(text: str, stem: str) -> None:
    if parse_component(stem) is not None:
        raise UnitError(
            f"{shown(text)}: {stem} is a component of weights, of which no paths are known. Ask for it alone, or in a "
            "group; paths go from and to heads, MLPs and features."
        )


def _parts(graph: Graph, text: str, piece: str, laid: Laid) -> tuple[Part, ...]:
    """The parts that a piece between arrows names."""
    found = tuple(_part(graph, text, name, laid) for name in piece.split("+"))
    for i, one in enumerate(found):
        for other in found[:i]:
            same = one.layer == other.layer and (
                set(one.reads) & set(other.reads) or (one.stem == other.stem and not one.reads)
            )
            if same and one.meets(other):
                what = f"{one.name} twice" if one.name == other.name else f"{other.name} and {one.name}, which overlap"
                raise UnitError(f"{shown(text)} names {what}. Name every part once.")
    return found


def _part(graph: Graph, text: str, name: str, laid: Laid) -> Part:
    stem, at, where = name.strip().partition("@")
    span: Range | str | None = read_range(where) if at else None
    if at and span is None and re.fullmatch(SPAN_NAME, where):
        span = where
    if at and (span is None or (isinstance(span, tuple) and not is_range(span))):
        raise UnitError(
            f"{shown(text)}: {shown(where)} behind {stem} are no positions. Write @7, @5-8, @end, or @-3--1 for the "
            "last three (both count from the start, or both from the end, and the smaller comes first), or @subject "
            "for a span of the task."
        )
    if stem == "input":
        return Part(stem, -1, (), (0,), span)
    if stem == "logits":
        if span is not None:
            raise UnitError(f"{shown(text)}: the logits are read at the last position alone. Leave the positions out.")
        return Part(stem, graph.layers, ((LOGITS, -1),), ())
    if match := _MLP.fullmatch(stem):
        layer = _within(graph, text, stem, int(match[1]), "m")
        return Part(stem, layer, ((MLP, -1),), (graph.block(layer).mlp.start,), span)
    if match := _MIXER.fullmatch(stem):
        layer = _within(graph, text, stem, int(match[1]), "x")
        return _mixer(graph, text, layer, match[2], span)
    _require_no_component(text, stem)
    if found := parse_feature(stem):
        return _coded(text, stem, found, laid, span)
    if match := _OF_ALL.fullmatch(stem):
        return _of_all_heads(graph, text, _within(graph, text, stem, int(match[1]), "a"), match[2], span)
    if match := _HEAD.fullmatch(stem):
        layer = _within(graph, text, stem, int(match[1]), "a")
        return _head(graph, text, (layer, match[2], int(match[3]), match[4]), span)
    raise UnitError(f"{shown(text)}: {shown(name)} is no part of a path. {_PARTS}")


def _coded(text: str, stem: str, found: tuple[str, int, int], laid: Laid, span: Range | str | None) -> Part:
    """A part of a dictionary."""
    kind, layer, index = found
    if (kind, layer) not in laid:
        raise UnitError(
            f"{shown(text)}: there is no {stem}; no such dictionary is laid on the model. Lay it there, "
            "lm.reading(vc.dictionary(lm, …)), or give dictionary=."
        )
    reads, writes = map(Site.of, laid[kind, layer])
    return Part(stem, layer, (), (), span, Coded(kind, layer, index, reads, writes))


def _within(graph: Graph, text: str, stem: str, layer: int, part: str) -> int:
    """The layer, if there is such a one and it has an attention (`a`), a mixer (`x`) or an MLP (`m`)."""
    if layer >= graph.layers:
        raise UnitError(f"{shown(text)}: there is no {stem}; layers are 0 … {graph.layers - 1}.")
    if part not in graph.parts(layer):
        what = {"a": "attention", "x": "mixer", "m": "MLP"}[part]
        raise UnitError(f"{shown(text)}: there is no {stem}; block {layer} has no {what}.")
    return layer


def _mixer(graph: Graph, text: str, layer: int, head: str | None, span: Range | str | None) -> Part:
    """A whole mixer, which reads and writes, or one of its heads, which only writes."""
    at = graph.block(layer).heads
    if head is None:
        return Part(f"x{layer}", layer, ((MIXER, -1),), tuple(range(at.start, at.stop)), span)
    if int(head) >= graph.mixer_heads:
        raise UnitError(
            f"{shown(text)}: there is no x{layer}.h{head}; a mixer has {graph.mixer_heads} heads that write apart."
        )
    return Part(f"x{layer}.h{head}", layer, (), (at.start + int(head),), span)


def _of_all_heads(graph: Graph, text: str, layer: int, kind: str, span: Range | str | None) -> Part:
    """A reader that all heads of a block share, by which what all of them write changes."""
    stem = f"a{layer}<{kind}>"
    if kind not in graph.joint:
        raise UnitError(f"{shown(text)}: there is no {stem}; an attention reads by {graph.attention_words}.")
    heads = graph.block(layer).heads
    reads = tuple((_KINDS[letter], head) for letter in kind for head in range(graph.heads))
    return Part(stem, layer, reads, tuple(range(heads.start, heads.stop)), span)


def _head(graph: Graph, text: str, named: tuple[int, str, int, str | None], span: Range | str | None) -> Part:
    layer, what, index, kind = named
    share, whole = graph.share(layer), what == "kv"
    stem = f"a{layer}.{what}{index}" + (f"<{kind}>" if kind else "")
    if index >= (graph.kv_heads_of(layer) if whole else graph.heads):
        raise UnitError(
            f"{shown(text)}: there is no {stem}; block {layer} has {graph.heads} heads and {graph.kv_heads_of(layer)} "
            "key/value heads."
        )
    own = ("kv",) if layer in graph.keys_are_values else ("k", "v")
    if kind not in (own if whole else (None, "q", *(own if len(own) > 1 else ()))):
        names = " or ".join(f"a{layer}.kv{index if whole else index // share}<{letter}>" for letter in own)
        what = "has a key and a value alone" if whole else "is no reader"
        raise UnitError(f"{shown(text)}: {stem} {what}: {names}.")
    shared = [one for one in graph.joint if kind is None or kind in one]
    if kind and shared:
        raise UnitError(
            f"{shown(text)}: {stem} is not read apart, since its heads share a{layer}<{shared[0]}>. Name that instead."
        )
    heads = range(index * share, (index + 1) * share) if whole else range(index, index + 1)
    if share == 1 and kind in ("k", "v", "kv"):  # one part, one name: that of the graph's edges
        stem = f"a{layer}.kv{index}<{kind}>"
    kinds = (Q, K, V) if kind is None else tuple(_KINDS[letter] for letter in kind)
    reads = () if shared else tuple((one, head) for one in kinds for head in heads)
    first = graph.block(layer).heads.start
    return Part(stem, layer, reads, tuple(first + head for head in heads), span)


def _require_ends(graph: Graph, text: str, sender: Sequence[Part], steps: Sequence[Step]) -> None:
    """The sender writes, all behind it reads, and the logits come last and alone."""
    for one in sender:
        if not one.sends or "<" in one.stem:
            raise UnitError(
                f"{shown(text)}: {one.stem} sends nothing. A sender writes to the stream: input, a head (a5.h5) or an "
                "MLP (m3), or a part of a dictionary (f10.12)."
            )
    for i, step in enumerate(steps):
        for one in step.parts:
            if one.coded is not None:
                _require_reader(text, one.coded, one.stem, step)
                continue
            if not one.reads:
                raise UnitError(
                    f"{shown(text)}: {one.stem} reads nothing{_read_by(graph, one)}. It can only be a sender, the "
                    "first name."
                )
            if not one.writes and (i < len(steps) - 1 or len(step.parts) > 1):
                raise UnitError(f"{shown(text)}: logits end a path, and stand there alone.")


def _read_by(graph: Graph, part: Part) -> str:
    """What reads in the place of a part that does not, for messages."""
    if part.stem.startswith("x"):
        return f" (the mixer reads as a whole: x{part.layer})"
    return f" by itself (its attention reads by {graph.attention_words})" if part.stem.startswith("a") else ""


def _require_reader(text: str, coded: Coded, stem: str, step: Step) -> None:
    """UnitError for a part of a dictionary that cannot see a change by itself, or not beside others."""
    if not coded.passes_on:
        raise UnitError(
            f"{shown(text)}: {stem} is of a dictionary that reads {coded.reads.name} and explains {coded.writes.name}. "
            "It can only be a sender; readers are of one site, or of a transcoder of one layer's MLP."
        )
    for other in step.parts:
        if other.coded is None or (other.coded.kind, other.layer) != (coded.kind, coded.layer):
            raise UnitError(
                f"{shown(text)} joins {stem} and {other.stem} as readers; only parts of one dictionary can be joined "
                "there. Make a path of each."
            )


def _require_arrow(graph: Graph, text: str, left: Sequence[Part], step: Step, sends: bool) -> None:
    """Every part right of an arrow sees every part left of it; `...` leads from one place of the stream to one."""
    for writer in left:
        for reader in step.parts:
            if writer.written_at(graph) > reader.read_at(graph) or _beside(writer, reader):
                raise UnitError(
                    f"{shown(text)} cannot exist: {writer.stem} writes to the stream only behind what {reader.stem} "
                    "reads. An arrow leads to a later part; make two paths where one of several is earlier."
                )
    if not step.through:
        return
    ends = [(step.parts, "leads to", {one.read_at(graph) for one in step.parts})]
    ends += [(tuple(left), "starts from", {one.written_at(graph) for one in left})] if sends else []
    for parts, what, places in ends:
        if len(places) > 1:
            raise UnitError(
                f"{shown(text)}: '{THROUGH}' {what} {joined(parts)}, one of which lies on ways to another. Make a "
                "path of each, or join those of one block alone."
            )


def _beside(writer: Part, reader: Part) -> bool:
    """Whether both are parts of the stream at one place: an encoder of the stream sees nothing of what is written there
    by another."""
    one, other = writer.coded, reader.coded
    return one is not None and other is not None and one.writes == other.writes

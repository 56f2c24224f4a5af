"""Circuits of GPT-2 small that were published, as data: what a method should find there.

**IOI** (indirect objects; arXiv 2211.00593): 26 heads in seven groups, `IOI_HEADS`. Edges:

    input → previous token, duplicate token (q, k, v)
    previous token → induction (k, v)
    induction, duplicate token → S-inhibition (k, v)
    input → S-inhibition (q)
    S-inhibition → name movers, negative, backup (q)
    input → name movers, negative, backup (k, v)
    name movers, negative, backup → logits

The paper's circuit is one of heads; MLPs are part of the model it runs in, not of the circuit. As edges it has none of
them, so that in an edge-wise run no MLP writes anything clean: its faithfulness there is not the paper's figure.

**Greater-Than** (arXiv 2305.00586): nine heads and MLPs 0–3, 8–11, in `GREATER_THAN`. Stated: a0.h1 → early MLPs and
middle heads; a0.h3, a0.h5 → middle heads; early MLPs → middle heads → late MLPs; middle heads and late MLPs → logits.
What the text leaves open, and how it is read here (as in the code with which the field compares, `acdc/greaterthan` of
ArthurConmy/Automatic-Circuit-Discovery, and `greaterthan_official` of UFO-101/auto-circuit):

* an edge into a head goes into its query, key and value;
* the early heads and the early MLPs read the input: the text begins with them;
* MLPs of one group feed the later ones of the same group;
* "middle heads → late MLPs" holds where the head comes first: a8.h11 → m8 does, a9.h1 → m8 cannot.

The paper leaves the middle heads' queries clean. The code cited last adds edges from all MLPs before a middle head to
its query, and among these MLPs, to come near that; they are no part of the stated circuit and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from veracausa.anatomy.graph import Graph, graph_of
from veracausa.choices import PublishedCircuit
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.wiring import parse_names
from veracausa.errors import MethodError
from veracausa.suggestions import not_known

#: Sizes of GPT-2 small.
LAYERS, HEADS = 12, 12

#: The heads of the IOI circuit by what they do.
IOI_HEADS = {
    "name movers": ("a9.h9", "a10.h0", "a9.h6"),
    "backup name movers": ("a10.h10", "a10.h6", "a10.h2", "a10.h1", "a11.h2", "a9.h7", "a9.h0", "a11.h9"),
    "negative name movers": ("a10.h7", "a11.h10"),
    "S-inhibition": ("a7.h3", "a7.h9", "a8.h6", "a8.h10"),
    "induction": ("a5.h5", "a5.h8", "a5.h9", "a6.h9"),
    "duplicate token": ("a0.h1", "a0.h10", "a3.h0"),
    "previous token": ("a2.h2", "a4.h11"),
}

#: The parts of the Greater-Than circuit.
GREATER_THAN = {
    "a0.h1": ("a0.h1",),
    "a0.h3, a0.h5": ("a0.h3", "a0.h5"),
    "early MLPs": ("m0", "m1", "m2", "m3"),
    "middle heads": ("a5.h5", "a6.h1", "a6.h9", "a7.h10", "a8.h11", "a9.h1"),
    "late MLPs": ("m8", "m9", "m10", "m11"),
}


def published(name: PublishedCircuit) -> Circuit:
    """The published circuit `name` of GPT-2 small, of any weights of this graph; the module says how its text is read.

    `settings["groups"]` names the groups of its heads and MLPs.

    Raises:
        MethodError: no such circuit.

    >>> len(vc.circuits.published("ioi-gpt2"))
    182
    """
    if name not in _MADE:
        raise MethodError(not_known("name", name, _MADE))
    return _MADE[name]()


def _ioi() -> Circuit:
    groups = IOI_HEADS
    movers = [*groups["name movers"], *groups["negative name movers"], *groups["backup name movers"]]
    early = [*groups["previous token"], *groups["duplicate token"]]
    names = [
        *_into(["input"], early, "qkv"),
        *_into(groups["previous token"], groups["induction"], "kv"),
        *_into([*groups["induction"], *groups["duplicate token"]], groups["S-inhibition"], "kv"),
        *_into(["input"], groups["S-inhibition"], "q"),
        *_into(groups["S-inhibition"], movers, "q"),
        *_into(["input"], movers, "kv"),
        *_into(movers, ["logits"]),
    ]
    return _circuit("IOI, Wang et al. 2022 (arXiv 2211.00593)", "ioi", names, groups)


def _greater_than() -> Circuit:
    groups = GREATER_THAN
    first, others, early, middle, late = groups.values()
    names = [
        *_into(["input"], [*first, *others], "qkv"),
        *_into(["input"], early),
        *_into(first, early),
        *_into([*first, *others, *early], middle, "qkv"),
        *_into(early, early),
        *_into(middle, late),
        *_into(late, late),
        *_into([*middle, *late], ["logits"]),
    ]
    return _circuit("Greater-Than, Hanna et al. 2023 (arXiv 2305.00586)", "greater_than", names, groups)


def _into(writers: Iterable[str], readers: Iterable[str], inputs: str = "") -> list[str]:
    """Edges from every writer to every reader that comes behind it; `inputs`: which of a head's q, k, v."""
    graph = _graph()
    ends = [f"{name.replace('.h', '.kv')}<{one}>" if one != "q" else f"{name}<q>" for name in readers for one in inputs]
    ends = ends or list(readers)
    writer_at = {name: i for i, name in enumerate(graph.writer_names)}
    reader_at = {name: i for i, name in enumerate(graph.reader_names)}
    return [f"{start}->{end}" for start in writers for end in ends if graph.sees(reader_at[end], writer_at[start])]


def _graph() -> Graph:
    return graph_of(LAYERS, HEADS, HEADS, False)


def _circuit(method: str, task: str, names: list[str], groups: dict[str, tuple[str, ...]]) -> Circuit:
    ends = parse_names(_graph(), names)
    return Circuit.of(
        _graph(),
        ends[:, 0],
        ends[:, 1],
        method=method,
        model={"name": "gpt2", "source": "GPT-2 small, as published (any weights of this graph)", "identity": ""},
        task={"name": task, "description": f"{task}, as published", "digest": "", "metric": "", "n": 0},
        settings={"groups": {name: list(group) for name, group in groups.items()}},
    )


#: Name → how the circuit is made.
_MADE: dict[str, Callable[[], Circuit]] = {"ioi-gpt2": _ioi, "greater-than-gpt2": _greater_than}

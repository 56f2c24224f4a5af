"""Names of components: parts of a linear map's weights, W = Σ_c u_c v_cᵀ + Δ.

| name | what it is |
|---|---|
| `m5.down.c12` | singular direction 12 of the map, by falling singular value |
| `m5.down.spd12` | component 12 of the set "spd" |
| `m5.down.spd`, `m5.down.spd.rest` | all components of the set together, and Δ, what they leave |
| `m5.down`, `m5.down.rest` | the same of singular directions: the whole map, and nothing |
| `m5.down[4,17]` | one weight: what output 4 takes of input 17 |
| `a9.h6.ov3`, `a9.h6.qk3` | singular direction 3 of a head's output times value map, and of its query and key maps |

Maps are `q`, `k`, `v`, `o` of an attention and `gate`, `up`, `down` of an MLP. Kinds of units are "components.down",
"components.down.spd", "components.ov".
"""

from __future__ import annotations

import re

from veracausa.dictionaries.words import ERROR, EVERY

#: Maps of an attention and of an MLP, and products of maps, head by head.
MAPS = {"a": ("q", "k", "v", "o"), "m": ("gate", "up", "down")}
FACTORS = {"ov": ("v", "o"), "qk": ("q", "k")}
BY_HEAD = tuple(FACTORS)
#: The set of singular directions, whose letter kinds leave out, and that of single weights.
SINGULAR, WEIGHTS = "c", "weights"
#: Indices count heads, and rows of weights, in steps of it.
STEP = 1 << 20
#: What a set may be called.
SET = re.compile(r"[a-z]{1,12}")
#: What kinds of components look like.
KIND = re.compile(rf"components\.({'|'.join([*MAPS['a'], *MAPS['m'], *BY_HEAD])})(\.[a-z]+)?")

_N = r"0|[1-9][0-9]{0,5}"
_MAP = "|".join(rf"(?:{letter}(?P<{letter}>{_N})\.(?P<{letter}map>{'|'.join(maps)}))" for letter, maps in MAPS.items())
_SET = rf"\.(?P<set>[a-z]+)(?P<number>{_N})|(?:\.(?P<of>[a-z]+?))??(?P<rest>\.rest)?"
_PART = rf"(?:{_SET}|\[(?P<row>{_N}),(?P<column>{_N})\])"
_WHOLE = re.compile(rf"(?:{_MAP}){_PART}")
_HEAD = re.compile(rf"a({_N})\.h({_N})\.(ov|qk)({_N})")


def kind_of_set(name: str, chosen: str = SINGULAR) -> str:
    """The kind of units that components of a map are.

    >>> kind_of_set("down"), kind_of_set("down", "spd")
    ('components.down', 'components.down.spd')
    """
    return f"components.{name}" if chosen == SINGULAR else f"components.{name}.{chosen}"


def parse_component(stem: str) -> tuple[str, int, int] | None:
    """(kind, layer, index) of a name without a position, if it is a component's.

    >>> parse_component("m5.down.c12"), parse_component("m5.n12")
    (('components.down', 5, 12), None)
    """
    if match := _HEAD.fullmatch(stem):
        layer, head, name, number = match.groups()
        return kind_of_set(name), int(layer), int(head) * STEP + int(number)
    match = _WHOLE.fullmatch(stem)
    if match is None:
        return None
    layer, name = (match["a"], match["amap"]) if match["a"] else (match["m"], match["mmap"])
    if match["row"]:
        return kind_of_set(name, WEIGHTS), int(layer), int(match["row"]) * STEP + int(match["column"])
    if match["of"] == SINGULAR:
        return None  # all of them are called by the map's name alone
    if match["set"]:
        return kind_of_set(name, match["set"]), int(layer), int(match["number"])
    return kind_of_set(name, match["of"] or SINGULAR), int(layer), ERROR if match["rest"] else EVERY


def component_name(kind: str, layer: int, index: int) -> str:
    """The name of a component, whose inverse is `parse_component`.

    >>> component_name("components.ov", 9, 6 * STEP + 3)
    'a9.h6.ov3'
    """
    _, name, *more = kind.split(".")
    first, second = divmod(index, STEP)
    if name in BY_HEAD:
        return f"a{layer}.{name}.rest" if index >= ERROR else f"a{layer}.h{first}.{name}{second}"
    stem = f"{'a' if name in MAPS['a'] else 'm'}{layer}.{name}"
    if index in (ERROR, EVERY):
        return ".".join([stem, *more, *(["rest"] if index == ERROR else [])])
    return f"{stem}[{first},{second}]" if more == [WEIGHTS] else f"{stem}.{more[0] if more else SINGULAR}{index}"

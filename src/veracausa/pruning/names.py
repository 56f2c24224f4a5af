"""Names of what can be cut, by what, and what stands in its place; plain tables, nothing that runs."""

from __future__ import annotations

from collections.abc import Iterable

#: Kind of parts → (where they are, what one is called).
KINDS: dict[str, tuple[str, str]] = {
    "heads": ("attention", "a{layer}.h{index}"),
    "kv_groups": ("attention", "a{layer}.kv{index}"),
    "neurons": ("mlp", "m{layer}.n{index}"),
    "mlps": ("mlp", "m{layer}"),
    "attention": ("attention", "a{layer}"),
    "layers": ("layer", "l{layer}"),
}
#: Ranking → what it is, in words.
RANKINGS: dict[str, str] = {
    "fgp": "feature × gradient",
    "exact-mean": "exact mean ablation",
    "exact-zero": "exact zero ablation",
    "atp-mean": "AtP towards the mean",
    "atp-zero": "AtP towards 0",
    "wanda": "|W| · ‖x‖",
    "magnitude": "|W|",
    "random": "random order",
}
#: What a cut part is replaced by.
ABLATIONS = ("zero", "mean")
#: What text= says for the text that every Python has.
PYTHON = "python"


def kinds_in_words(kinds: Iterable[str]) -> str:
    """Kinds within a sentence.

    >>> kinds_in_words(["kv_groups", "mlps"])
    'K/V groups and MLPs'
    """
    return " and ".join({"kv_groups": "K/V groups", "mlps": "MLPs"}.get(kind, kind) for kind in kinds)

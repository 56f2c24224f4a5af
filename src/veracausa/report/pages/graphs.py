"""The page of attribution graphs: what adds to what, who has the influence, and how it stands to the live model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.graphs.checked import GraphCheck
from veracausa.graphs.graph import KINDS, AttributionGraph
from veracausa.graphs.influence import FEATURE, LOGIT, TOKEN
from veracausa.report.charts.attribution import attribution_part
from veracausa.report.charts.figures import Figure
from veracausa.report.charts.graph_checks import distance_figure, layers_figure, scatters_figure
from veracausa.report.pages.asked import Token
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.frame import About, framed
from veracausa.report.readable import readable
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.storage.files import at, write_text
from veracausa.words import counted, plain, whole

#: Graphs that a page may have.
MOST = 20
_METHODS = (
    (
        "Attribution graph",
        "A local replacement model of one prompt: attention patterns and norms' denominators are held as in the clean "
        "run, and every MLP that has a transcoder is replaced by its features and an error, so that everything between "
        "features is linear. A link is what its source adds to its target there, exactly.",
    ),
    (
        "Influence",
        "With Â the rows of |links| divided by their sums and w the logits' weights, influence is w (Â + Â² + …): how "
        "much of the logits' inputs comes through a node, without signs. Pruning keeps the nodes and links that hold a "
        "share of it; the replacement score is the share that comes from tokens through features, not from errors.",
    ),
    (
        "Live, frozen, sum over ways, direct",
        "Live: the node is set to 0 in the model as it is, and all that follows answers (an exact effect). Frozen: the "
        "same with patterns and norms held; features answer by their encoders. Sum over ways: the graph's own "
        "prediction, all ways from the node to the metric. Direct: the node's own link to the metric, taken off.",
    ),
)
_READING = (
    ("Nodes", "f2.76@5 is feature 76 of layer 2 at position 5, f2.error@5 what the transcoder leaves out there, m2@5 "
              "an MLP without one, r0@5 the embedding of the token at 5."),
    ("r, Spearman", "Correlation of a measure with the live effects, and of their ranks; of influence, which has no "
                    "sign, with |live|."),
    ("Median ratio", "The median of measure over live effect: 1 means the right size."),
)  # fmt: skip


@dataclass(frozen=True)
class _Block:
    """One graph as the template reads it."""

    name: str
    title: str
    tokens: list[Token]
    facts: list[tuple[str, str]]
    lead: str
    figures: list[Figure]
    tables: list[Table]


def write_page(graphs: Sequence[AttributionGraph], path: str | Path, check: GraphCheck | None = None) -> Path:
    """Write the page of some graphs, and of their check, as one offline file.

    Raises:
        MethodError: no graph, too many, of several models, or a check of others.
        FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(graphs, check))


def graph_page(graph: AttributionGraph, path: str | Path, check: GraphCheck | None = None) -> Path:
    """The same of one graph (public as `graph.page`)."""
    return write_page([graph], path, check)


def page(graphs: Sequence[AttributionGraph], check: GraphCheck | None = None) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    _require(graphs, check)
    blocks = [_block(graph, i, check, len(graphs) > 1) for i, graph in enumerate(graphs)]
    figures = [] if check is None else _check_figures(check)
    tables = [] if check is None else _check_tables(check)
    costs = [*(graph.cost for graph in graphs), *([] if check is None else [check.cost])]
    return framed(
        "graphs.html",
        [*(figure for block in blocks for figure in block.figures), *figures],
        [*(table for block in blocks for table in block.tables), *tables],
        shown=_shown(graphs[0].model, costs, check is not None),
        summary=_summary(graphs, check),
        notes=[] if check is not None else ["Nothing here was held against the live model: see “Methods”."],
        blocks=blocks,
        check=check,
        compared=figures,
        agreement=tables,
        methods=_METHODS,
        reading=_READING,
        cost=sum(cost.token_layers for cost in costs),
    )


def _shown(model: dict[str, str], costs: Sequence[Cost], checked: bool) -> About:
    title = f"What adds to what{', and how far it holds,' if checked else ''} in {model['name']}"
    return About.now(title, model, sum(cost.seconds for cost in costs))


def _require(graphs: Sequence[AttributionGraph], check: GraphCheck | None) -> None:
    if not 1 <= len(graphs) <= MOST:
        raise MethodError(f"A page is of 1 to {MOST} graphs; these are {len(graphs)}.")
    if len({graph.model["identity"] for graph in graphs}) > 1:
        raise MethodError("These graphs are of several models: make a page of each.")
    if check is None:
        return
    known = [{*graph.names} for graph in graphs]
    strange = [
        name
        for name, graph in zip(check.names, check.graphs.tolist(), strict=True)
        if graph >= len(graphs) or name not in known[graph]
    ]
    if strange or check.n != len(graphs):
        raise MethodError("This check is of other graphs: give those that it was made of, in their order.")


def _summary(graphs: Sequence[AttributionGraph], check: GraphCheck | None) -> list[str]:
    lines = [sentence for graph in graphs[:1] for sentence in graph.sentences]
    if len(graphs) > 1:
        scores = [graph.replacement_score for graph in graphs]
        lines = [
            f"{counted(len(graphs), 'prompt')}; replacement scores from {plain(min(scores), 2)} to "
            f"{plain(max(scores), 2)}: the share of the influence on the logits that does not come from errors.",
        ]
    return lines + ([] if check is None else [*check.sentences])


def _block(graph: AttributionGraph, number: int, check: GraphCheck | None, several: bool) -> _Block:
    name, said = f"graph-{number}", graph.settings
    counts = graph.counts
    pruned = graph.pruned()
    facts = [
        ("Replacement score", plain(graph.replacement_score, 2)),
        ("Completeness", plain(graph.completeness_score, 2)),
        ("Nodes", whole(len(graph.names))),
        ("Left by pruning", whole(int(pruned.nodes.sum()))),
        ("Features", whole(counts["feature"])),
        ("Errors", whole(counts["error"])),
        ("Targets", str(said.get("targets", ""))),
    ]
    others = str(said.get("errors", "")).partition("; ")[2]
    facts += [("Other MLPs", others)] if others else []

    def drawing() -> list[Figure]:
        part = attribution_part(graph, f"{name}-drawing", signs=False)
        said = f"Tokens across, layers upward. {part.subtitle}, and the links that carry the most: blue adds, orange "
        bare = replace(part, title="", subtitle="")
        return [Figure(f"{name}-drawing", "The strongest ways", (bare,), f"{said}takes off.", width=900)]

    figures = [
        *spared_figures(f"{name}-drawing", "The strongest ways", drawing),
        *spared_figures(f"{name}-layers", "Who has the influence", lambda: [layers_figure(graph, f"{name}-layers")]),
    ]
    tables = [
        *spared_tables(f"{name}-nodes", "Nodes", lambda: [_nodes_table(graph, f"{name}-nodes", number, check)]),
        *spared_tables(f"{name}-logits", "Logits", lambda: [_logits_table(graph, f"{name}-logits")]),
    ]
    title = f"Prompt {number}" if several else "The prompt"
    tokens = [Token(_visible(text), False) for text in graph.tokens]
    lead = " ".join(graph.sentences) if several else ""  # of one graph it is what the page begins with
    return _Block(name, title, tokens, facts, lead, figures, tables)


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", "⇥")


def _nodes_table(graph: AttributionGraph, name: str, number: int, check: GraphCheck | None) -> Table:
    """Every node that is no logit, those with the most influence first; live and frozen effects where taken."""
    frame = graph.top(len(graph.names))
    frame["token"] = [f"{_visible(graph.tokens[p]).strip() or '␣'} @{p}" for p in frame["position"]]
    columns = [
        Column("name", "node"),
        Column("token", "token"),
        Column("layer", "layer", "index"),
        Column("kind", "kind"),
        Column("activation", "activation", "plain", 3),
        Column("influence", "influence", "plain", 4),
        Column("direct", "direct", "signed", 4, help="what it adds to the metric by its own link"),
        Column("without it", "sum over ways", "signed", 4, help="the graph's prediction of M without it − M"),
    ]
    note = f"Sorted by influence; of {whole(len(frame))} nodes the first {min(SHOWN, len(frame))} are shown."
    if check is not None:
        own = check.table()
        own = own[own["graph"] == number].set_index("name")
        frame["live"], frame["frozen"] = (frame["name"].map(own[one]).astype(float) for one in ("live", "frozen"))
        columns += [
            Column("frozen", "frozen", "signed", 4, help="M without it − M, patterns and norms held"),
            Column("live", "live", "signed", 4, help="M without it − M in the model as it is: exact"),
        ]
        note += f" Live and frozen effects of the {whole(len(own))} strongest were taken."
    frame["name"] = [readable(one) for one in frame["name"]]
    frame.loc[frame["kind"] != KINDS[FEATURE], "activation"] = float("nan")
    frame["layer"] = frame["layer"].astype(float).where(frame["kind"] != KINDS[TOKEN])
    return Table(name, "Nodes", tuple(columns), rows_of(frame), note, SHOWN)


def _logits_table(graph: AttributionGraph, name: str) -> Table:
    """The targets."""
    frame = graph.table()
    frame = frame[frame["kind"] == KINDS[LOGIT]]
    rows = tuple(
        {"name": readable(one)} | {of: float(getattr(graph, which)[i]) for of, which in (
            ("weight", "weights"), ("total", "total"), ("bias", "bias"), ("rest", "rest"))}
        for i, one in zip(frame.index.tolist(), frame["name"], strict=True)
    )  # fmt: skip
    columns = (
        Column("name", "target"),
        Column("weight", "weight", "plain", 3, help="probability of a token, 1 of a metric"),
        Column(
            "total", "value", "signed", 3, help="a token's logit less the mean logit, or the metric, before any cap"
        ),
        Column("bias", "from biases", "signed", 3),
        Column("rest", "from features that are no nodes", "signed", 3),
    )
    return Table(name, "Targets", columns, rows)


def _check_figures(check: GraphCheck) -> list[Figure]:
    return [
        *spared_figures("check-live", "Live beside frozen", lambda: [scatters_figure(check, "check-live")]),
        *spared_figures("check-distance", "By distance", lambda: [distance_figure(check, "check-distance")]),
    ]


def _check_tables(check: GraphCheck) -> list[Table]:
    agreed = (
        Column("measure", "measure"), Column("r", "r", "plain", 2), Column("spearman", "Spearman", "plain", 2),
        Column("same sign", "same sign", "percent", 0), Column("median ratio", "median ratio", "signed", 2),
        Column("n", "nodes", "whole"),
    )  # fmt: skip
    by_kind, by_distance = (check.agreement(by=by) for by in ("kind", "band"))
    kinds = [Table("check-kinds", "By kind of node", (Column("kind", "kind"), *agreed), rows_of(by_kind))]
    names = ("clean", "live", "frozen", "nodes_kept", "nodes", "live_all", "frozen_all")
    titles = ("M", "M of the circuit, live", "frozen", "nodes kept", "of", "M without any, live", "frozen")
    forms = ("signed", "signed", "signed", "whole", "whole", "signed", "signed")
    circuits = check.circuit_table().reset_index(names="graph")
    return [
        *spared_tables("check-agreement", "Agreement", lambda: [
            Table("check-agreement", "Agreement with live ablation", agreed, rows_of(check.agreement())),
            *(kinds if by_kind["kind"].nunique() > 1 else []),
            Table("check-distances", "By distance to the logits",
                  (Column("band", "layers to the logits"), *agreed), rows_of(by_distance)),
        ]),
        *spared_tables("check-circuits", "What pruning keeps", lambda: [
            Table("check-circuits", "What pruning keeps, run alone", (Column("graph", "prompt", "index"), *(
                Column(n, t, f, 3) for n, t, f in zip(names, titles, forms, strict=True))), rows_of(circuits),
                "All other features and errors are set to 0. Last: all of them are.")]),
    ]  # fmt: skip

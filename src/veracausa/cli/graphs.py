"""The command about attribution graphs: what adds to what through transcoders, held against the live model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veracausa.arguments import shown
from veracausa.cli.checks import is_file
from veracausa.cli.choices import one_of
from veracausa.cli.command import BEGUN, spread
from veracausa.cli.estimate_options import Top
from veracausa.cli.foretelling import foretold
from veracausa.cli.laying import LayingOptions
from veracausa.cli.options import SomePairs
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.setup import Setup
from veracausa.errors import MethodError
from veracausa.result import ROWS
from veracausa.terminal import echo, say

if TYPE_CHECKING:
    from veracausa.graphs.checked import GraphCheck
    from veracausa.graphs.graph import AttributionGraph
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Prompts where nobody says how many: a graph each.
PROMPTS = 2
Targets = Annotated[
    str | None,
    typer.Option(
        metavar="NAME or TOKENS",
        help="What the graph is about: answers (the metric), top (the likeliest next tokens), or tokens with commas: "
        "' Paris, London'. Default: answers; of a prompt in plain words top.",
        autocompletion=one_of(("answers", "top")),
    ),
]
#: Endings of files with pairs, which no prompt is.
TABLES = (".csv", ".json", ".jsonl", ".parquet")


class GraphSetup(Setup):
    """The setup of graphs, one for each clean prompt; TASK may be a prompt in plain words."""

    n: SomePairs = None  # type: ignore[assignment]

    @property
    def words(self) -> bool:
        """Whether the task is a prompt: several words that are no file."""
        path = Path(self.task)
        return " " in self.task.strip() and path.suffix not in TABLES and not (is_file(self.task) and path.exists())

    def ready(self) -> tuple[Model, Task]:
        """See `Setup.ready`; of a prompt in plain words a task of its own."""
        if not self.words:
            return super().ready()
        if given := [name for name in ("metric", "corruption", "columns", "digits") if getattr(self, name) is not None]:
            raise MethodError(f"--{given[0]} is about a task's pairs; {shown(self.task)} is a prompt in plain words.")
        from veracausa.graphs.prompting import prompt

        lm = self.load_model()
        task = prompt(lm, self.task)
        say(f"task   {task.describe()}")
        BEGUN.set(True)
        return lm, task


@spread
def graph(setup: GraphSetup, laying: LayingOptions, top: Top = 50, targets: Targets = None) -> None:
    """Attribution graphs of transcoders, one a prompt; --top of each one's nodes are ablated in the live model, too.

    TASK may be a prompt in quotation marks, "The capital of France is"; its graph is about the likeliest next tokens.

    The folder --out has a page (report.html), each graph, the same as JSON for the viewers of circuit-tracer and
    Neuronpedia, and the check.
    """
    from veracausa.graphs.building import attribution_graph
    from veracausa.graphs.checking import check

    if not laying.dictionary:
        raise MethodError(
            "An attribution graph needs transcoders: --dictionary smollm2-135m-m10, once for each layer that has one."
        )
    words = setup.words
    lm, task = setup.but(n=setup.n or PROMPTS).ready()
    lm, about = laying.on(lm), targets or ("top" if words else "answers")
    how: dict[str, Any] = {"targets": about if about in ("answers", "top") else about.split(",")}
    made = [foretold(attribution_graph, lm, task, {"out": setup.out}, pair=0, **how)]
    made += [attribution_graph(lm, task, pair=i, out=setup.out, **how) for i in range(1, len(task))]
    found = check(lm, made, task, top=top) if top else None

    def show() -> None:
        for one in made:
            columns = one.top(ROWS).drop(columns=["kind", "layer", "position"])
            echo(f"{one}\n\n{columns.to_string(index=False, float_format='{:+.4g}'.format)}\n")
        if found is not None:
            said = found.agreement(by="kind").to_string(index=False, float_format="{:.2f}".format, na_rep="–")
            echo(f"{found}\n\n{said}")

    finish(setup.json, show, lambda: _body(made, found), lambda out: _kept(made, found, out), setup.out)


def _body(made: list[AttributionGraph], found: GraphCheck | None) -> dict[str, Any]:
    checked = {} if found is None else {"check": body_of(found)}
    return {"result": "AttributionGraphs", "graphs": [body_of(one) for one in made], **checked}


def _kept(made: list[AttributionGraph], found: GraphCheck | None, out: Path) -> Path:
    """Write everything; the last path that was written first says where."""
    from veracausa.graphs.exchange import write_graph_json
    from veracausa.report.pages.graphs import MOST, write_page

    for pair, one in enumerate(made):
        path = with_csv(one.save(out / f"graph-{pair}.safetensors"), one.table())
        write_graph_json(one, out / f"graph-{pair}.json")
    if found is not None:
        path = with_csv(found.save(out / "graph-check.safetensors"), found.table())
    write_page(made[:MOST], out / "report.html", found if len(made) <= MOST else None)
    return path

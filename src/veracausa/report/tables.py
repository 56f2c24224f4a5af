"""Tables of the page, and the same as CSV with all digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.report.charts.data import effects, errors, match, plural
from veracausa.report.packing import Columns
from veracausa.report.readable import readable
from veracausa.scores.agreement import Agreement, strongest_of
from veracausa.statistics.bootstrap import LEAST, too_few
from veracausa.statistics.intervals import LEAST_OF
from veracausa.storage.files import csv_text
from veracausa.words import plain, sentence, signed, whole

if TYPE_CHECKING:
    import pandas as pd

    from veracausa.studies.results import Panel, Section, Study

#: Units in a table on the page; the CSV has all.
SHOWN = 50
#: Tables with more rows than this lie only beside the page, not in it.
EMBEDDED = 5000


@dataclass(frozen=True)
class Column:
    """A column: key in the rows, heading, and how to write its values: "text", "signed", "plain", "whole",
    "index" (no thousands), "percent", "p". `csv_only`: not on the page."""

    key: str
    title: str
    form: str = "text"
    digits: int = 3
    help: str = ""
    csv_only: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.form != "text"

    def show(self, value: Any) -> str:
        """A value as the page writes it."""
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return "–"
        if self.form == "index":
            return str(int(value))
        if self.form == "whole":
            return whole(value)
        if self.form == "percent":
            return f"{100 * value:.{self.digits}f} %"
        if self.form == "p":
            return "< 0.001" if value < 0.001 else plain(value)
        if self.form in ("signed", "plain"):
            return (signed if self.form == "signed" else plain)(value, self.digits)
        return str(value)

    def fills(self, row: dict[str, Any]) -> bool:
        """Whether a row has something to show here."""
        return self.show(row.get(self.key)) not in ("", "–")

    def key_of(self, value: Any) -> str:
        """What the page sorts numbers by."""
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return ""
        return f"{float(value):.9g}"


@dataclass(frozen=True)
class Table:
    """Rows under columns; `name`: of its file and anchor; `shown`: how many of the rows the page has."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[dict[str, Any], ...]
    note: str = ""
    shown: int | None = None

    @property
    def page_rows(self) -> Sequence[dict[str, Any]]:
        """The rows that the page shows."""
        return self.rows[: self.shown]

    @property
    def page_columns(self) -> list[Column]:
        """The columns that the page shows: not those that hold nothing in any row of it, such as errors of one pair."""
        return [column for column in self.columns if not column.csv_only and any(map(column.fills, self.page_rows))]

    def frame(self) -> pd.DataFrame:
        """All rows, as numbers."""
        import pandas as pd

        return pd.DataFrame([{c.key: _cell(row.get(c.key)) for c in self.columns} for row in self.rows])

    @property
    def embedded(self) -> bool:
        """Whether all rows can be downloaded from the page itself."""
        return len(self.rows) <= EMBEDDED

    def records(self, columns: Columns) -> dict[str, Any]:
        """All rows for the page's downloads, numbers in full: title, note, names of columns, and what is in them."""
        keys = [column.key for column in self.columns]
        values = [columns.add([row.get(key) for row in self.rows]) for key in keys]
        return {"title": self.title, "note": self.note, "columns": keys, "values": values}

    def csv(self) -> str:
        """All rows as CSV, numbers in full."""
        return csv_text(self.frame())


def _cell(value: Any) -> Any:
    """A value as a file holds it: no file takes half of a surrogate pair, and few readers take control characters."""
    return readable(value) if isinstance(value, str) else value


#: Figures of agreement that have an interval in the table.
_RANGED = tuple(LEAST_OF)
_OVER_PAIRS = "95 % interval over pairs; none where pairs differ too much (statistics.intervals)"


def _range(interval: tuple[float, float]) -> str:
    """0.971 to 0.990; nothing where there is no interval."""
    low, high = interval
    return f"{plain(low)} to {plain(high)}" if math.isfinite(low) else ""


def agreement_table(panel: Panel, agreements: Sequence[Agreement], drawn: Sequence[Agreement], name: str) -> Table:
    """The agreement figures of every method; separately over the random draw, if there was one."""
    rows = []
    stabilities = panel.stabilities
    for which, rated in (("all compared", agreements), ("random draw only", drawn)):
        for scores, one, stable in zip(panel.estimates, rated, stabilities, strict=False):
            row = dict(one.row()) | {"stability": stable}
            k = next(key for key in row if key.startswith("jaccard@"))
            row |= {"over": which, "jaccard": row.pop(k), "residual": one.residual, "p": one.proportional_p}
            row |= {f"{key} 95%": _range(one.intervals[key]) for key in _RANGED}
            row |= {"cost": scores.cost.token_layers, "seconds": scores.cost.seconds}
            if not one.signed:
                row["sign errors"] = None
            rows.append(row)
    top, several = strongest_of(len(agreements[0].names)), panel.exact.n >= LEAST
    columns = [
        Column("method", "method"),
        *([Column("over", "compared over")] if drawn else []),
        Column("units", plural(panel.kind), "whole", csv_only=not drawn),
        Column("r", "r", "plain"),
        *([Column("r 95%", "95 %", help=_OVER_PAIRS)] if panel.exact.n >= LEAST_OF["r"] else []),
        Column("spearman", "Spearman", "plain"),
        Column("slope", "slope", "plain", 2),
        *([Column("slope 95%", "95 %", help=_OVER_PAIRS)] if panel.exact.n >= LEAST_OF["slope"] else []),
        Column("jaccard", f"Jaccard@{top}", "plain", 2),
        *([Column("jaccard 95%", "95 %", help=_OVER_PAIRS)] if panel.exact.n >= LEAST_OF["jaccard"] else []),
        Column("sign errors", "wrong signs", "whole", help="among strong units: exact effect over 1 % of the gap"),
        Column("of strong", "of", "whole", help="strong units: exact effect over 1 % of the gap"),
        Column("median |error|", "median |error|", "plain", 5),
        Column("bias", "bias", "signed", 5),
        Column("limits ±", "±\u00a01.96\u00a0SD", "plain", 4),
        Column("proportional bias", "prop. bias", "signed", 2),
        Column("p", "p", "p", help="of the proportional bias"),
        Column("outliers", "outliers", "whole"),
        *(
            [
                Column(
                    "stability",
                    "stability",
                    "plain",
                    2,
                    help="mean Jaccard of the strongest over bootstrap draws of pairs",
                )
            ]
            if several
            else []
        ),
        Column("residual", "residual", "percent", 2, help="completeness: mean |residual| over mean |gap|"),
        Column("cost", "token-layers", "whole"),
        Column("seconds", "seconds", "plain", 1),
    ]
    few = too_few(panel.exact.n) or f"r has {too_few(panel.exact.n, LEAST_OF['r'])}".removesuffix("r has ")
    note = " ".join(sentence(said) for said in (*panel.exact.cautions, few) if said)
    heading = "How well the methods agree with the exact effects"
    return Table(f"{name}-agreement", heading, tuple(columns), tuple(rows), note)


def units_table(panel: Panel, name: str) -> Table:
    """Every unit with its exact effect and every estimate, the strongest first."""
    exact, title = effects(panel.exact)
    units = panel.exact.units
    table = units.table()
    several = panel.exact.n > 1
    spread = errors(panel.exact) if several else np.full(len(units), np.nan)
    estimates = {label: match(s, units) for s, label in zip(panel.estimates, panel.labels, strict=True)}
    place = [c for c in table.columns if c != "name"]
    count = len(units)
    rows = []
    for i in np.argsort(-np.abs(np.nan_to_num(exact)), kind="stable").tolist():
        row: dict[str, Any] = {"name": table["name"][i], **{c: _cell(table[c][i]) for c in place}}
        row |= {"exact": float(exact[i]), "stderr": float(spread[i])}
        row |= {f"estimate: {label}": float(values[i]) for label, values in estimates.items()}
        row["chosen"] = "at random" if i >= count - panel.sampled else "strong"
        rows.append(row)
    columns = [
        Column("name", "unit"),
        *(Column(c, c, "index" if table[c].dtype.kind == "i" else "text") for c in place),
        Column("exact", "exact", "signed", 4),
        *([Column("stderr", "± SE", "plain", 4)] if several else []),
        *(
            Column(f"estimate: {label}", label if own == title else f"{label}, {own}", "signed", 4)
            for label, (_, own) in zip(estimates, map(effects, panel.estimates), strict=True)
        ),
        *([Column("chosen", "chosen")] if panel.sampled else []),
    ]
    shown = min(SHOWN, count)
    heading = f"The {shown} strongest {plural(panel.kind)}" if shown < count else f"All {count} {plural(panel.kind)}"
    note = f"{title[0].upper()}{title[1:]}; sorted by |exact|." + (
        f" tables/{name}-units.csv holds all {count:,}." if shown < count else ""
    )
    return Table(f"{name}-units", heading, tuple(columns), tuple(rows), note, shown)


def pairs_table(section: Section, name: str) -> Table:
    """Every pair of prompts with its answers and its metric."""
    task, measured = section.task, section.measured
    weak = set(measured.weak)
    rows = []
    for i in range(len(task)):
        correct, incorrect = task.answer_strings(i)
        rows.append(
            {
                "pair": i,
                "clean": task.clean_text[i] or "".join(task.tokens(i)[0]),
                "corrupted": task.corrupted_text[i] or "".join(task.tokens(i)[1]),
                "correct": " | ".join(correct),
                "incorrect": " | ".join(incorrect),
                "metric clean": float(measured.clean[i]),
                "metric corrupted": float(measured.corrupted[i]),
                "gap": float(measured.gap[i]),
                "weak": "weak" if i in weak else "",
            }
        )
    columns = (
        Column("pair", "pair", "index"),
        Column("clean", "clean"),
        Column("corrupted", "corrupted"),
        Column("correct", "correct"),
        Column("incorrect", "incorrect"),
        Column("metric clean", "clean", "signed"),
        Column("metric corrupted", "corrupted", "signed"),
        Column("gap", "gap", "signed"),
        Column("weak", "weak"),
    )
    return Table(f"{name}-pairs", "Pairs", columns, tuple(rows))


def steps_table(study: Study) -> Table:
    """Every stage of a study: token-layers and seconds as forecast, and as they were."""
    rows = tuple(
        {"what": plan.what, "planned": plan.token_layers, "token-layers": done.token_layers, "forecast": plan.seconds}
        | {"seconds": done.seconds}
        for plan, done in study.steps
    )
    columns = (
        Column("what", "stage"),
        Column("planned", "forecast", "whole", help="token-layers, counted before the study began"),
        Column(
            "token-layers", "token-layers", "whole",
            help="as the stage counted them; recordings that it found are counted as if it had made them",
        ),
        Column("forecast", "forecast, s", "plain", 1, help="at this machine's rate, timed for a few seconds"),
        Column("seconds", "took, s", "plain", 1, help="less where an interrupted run had finished pieces"),
    )  # fmt: skip
    forecast = sum(plan.seconds or 0.0 for plan, _ in study.steps)
    took = sum(done.seconds or 0.0 for _, done in study.steps)
    note = f"Together {plain(forecast, 0)} s were forecast and {plain(took, 0)} s taken, besides drawing this page."
    return Table("steps", "Stages", columns, rows, note)

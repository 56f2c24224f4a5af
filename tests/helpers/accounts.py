"""Why exact effects and attribution patching differ on one pair, as the engine's runs with expanded parts tell it."""

import numpy as np

from veracausa.causes.location_runs import record, run_rows
from veracausa.cost import Cost
from veracausa.effects.replacements import Counterfactual
from veracausa.effects.rows import Rows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import attention_function, borrowed
from veracausa.units.resolve import resolve_units


def account(lm, task, names):
    """(kinds, `Account`) of one pair's units, in their layers' order."""
    table = resolve_units(lm, names, 9)
    rows = Rows(lm, task, table, Counterfactual(True), True, None, Cost())
    with borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        ((start, examples),) = rows.buckets(True)
        recorded = record(lm, task, table.place, start, examples, rows.cost)
        order = np.array([[example, unit] for unit in range(len(table)) for example in examples])
        return recorded.kinds, run_rows(recorded, rows, order)

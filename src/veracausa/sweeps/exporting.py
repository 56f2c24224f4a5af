"""A sweep's scores as Parquet, which DuckDB, polars and pandas query where it lies, without reading it whole.

One file a cell, one row group an item, so that writing takes the memory of one item. A row is one effect: of one unit
on one pair. Pairs that have no such unit have no row.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.extras import require_extra
from veracausa.scores.scores import Scores
from veracausa.storage.files import written
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.shards import Shard, Shards, require_done

if TYPE_CHECKING:
    import pyarrow


def to_parquet(folder: Folder, cell: int, path: Path) -> Path:
    """Write the scores of a cell: columns cell, pair, unit, layer, effect, clean, corrupted.

    `effect`, `clean`, `corrupted`: in units of the metric, in the precision of the scores; `clean` and `corrupted` are
    the ends of the row's pair.

    Raises:
        MethodError: the cell's answer is no scores. FileError: an item is not done, or damaged, or the file cannot be
        written. ExtraError: pyarrow is missing.
    """
    require_extra("parquet")
    require_done(folder, cell)
    shards = Shards(folder, cell)
    rows = _Rows(shards.frame, folder.cells[cell].name)

    def write(beside: Path) -> None:
        import pyarrow.parquet as parquet

        writer = None
        try:
            for shard in shards:
                table = rows.of(shard)
                writer = writer or parquet.ParquetWriter(beside, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        finally:
            if writer is not None:
                writer.close()

    return written(path, write)


class _Rows:
    """Items as tables of rows."""

    def __init__(self, frame: Scores, cell: str) -> None:
        import pyarrow as pa

        self._names = pa.array(frame.units.names, pa.string())
        self._layers, self._cell = frame.units.layer.astype(np.int16), pa.array([cell], pa.string())

    def of(self, shard: Shard) -> pyarrow.Table:
        """One row per effect of an item."""
        import pyarrow as pa

        numbers = {name: shard.tensors[name].numpy() for name in ("values", "clean", "corrupted")}
        row, column = np.nonzero(~np.isnan(numbers["values"]))
        own = self._names.take(pa.array(shard.columns))
        columns: dict[str, Any] = {
            "cell": pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(row), np.int8)), self._cell),
            "pair": pa.array(shard.rows[row].astype(np.int32)),
            "unit": pa.DictionaryArray.from_arrays(pa.array(column.astype(np.int32)), own),
            "layer": pa.array(self._layers[shard.columns[column]]),
            "effect": pa.array(numbers["values"][row, column]),
            "clean": pa.array(numbers["clean"][row]),
            "corrupted": pa.array(numbers["corrupted"][row]),
        }
        return pa.table(columns)

"""Items of a cell put together: the result that one process would have given.

Numbers of a pair and a unit stand in one item each, so nothing is added up but costs: effects are those of one process
to the last bit where both ran in the same batches, and to rounding elsewhere (contract 8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from veracausa.scores.scores import Scores
from veracausa.storage.files import keep
from veracausa.sweeps.folder import Folder
from veracausa.sweeps.joining import joined
from veracausa.sweeps.judging import curve_of, receipt_of, study_of
from veracausa.sweeps.shards import Shards, in_folder, opened, require_done, result_in
from veracausa.sweeps.verbs import STAGED

if TYPE_CHECKING:
    from veracausa.result import Result


def merge(folder: Folder, cell: int) -> Result:
    """The result of a cell, of its items; saved beside the other results, and read from there where it is already.

    Studies and discoveries are there when their last item is done.

    Raises:
        FileError: an item is not done, or its file is damaged: it is put away, and the sweep makes it anew.
    """
    path, items, ask = folder.result(cell), folder.of_cell(cell), folder.cells[cell].ask
    if ask in STAGED:
        require_done(folder, cell)
        return in_folder(folder, cell)
    if path.exists():
        return result_in(path)
    require_done(folder, cell)
    result = _JOINED[ask](folder, cell) if len(items) > 1 else opened(folder, items[0], result_in)
    keep(lambda: result.save(path))  # where it cannot be written, it is read all the same
    return result


def _scores(folder: Folder, cell: int) -> Scores:
    return joined(Shards(folder, cell))


#: Verb → how the items of a cell become one result.
_JOINED: dict[str, Callable[[Folder, int], Result]] = {
    "exact": _scores, "attribute": _scores, "verify": receipt_of, "curve": curve_of, "ablation_study": study_of
}  # fmt: skip

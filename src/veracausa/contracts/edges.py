"""Contracts 4, 6 and 13 (see `checks`): circuits, exact effects and slopes of edges, on this very model.

The judge is the bare Hugging Face model, run whole with one plain hook: one reader that alone sees another stream, or
one write that is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy.beside import NormedMLPs
from veracausa.anatomy.graph import HEAD, INPUT, LOGITS, MIXER, MLP, WRITER_MIXER, WRITER_MLP, Q, V, of_projection
from veracausa.circuits.knockouts import without_edges, without_writers
from veracausa.circuits.runs.run_circuits import run_circuits
from veracausa.effects.exact import exact
from veracausa.engine.circuit_forward import all_edges_mask
from veracausa.engine.guard import borrowed, changing, giving, hooks, precision_of
from veracausa.engine.measure import pair_ids, readout
from veracausa.engine.reader_change import SITES
from veracausa.engine.reader_gradients import SITES as READS
from veracausa.engine.reader_gradients import Reads
from veracausa.engine.readout import Readout
from veracausa.engine.recording import record_pairs
from veracausa.engine.sharing import at_rest
from veracausa.engine.tape import Tape, whole_middles
from veracausa.engine.writes import arriving, write_changes
from veracausa.estimates.attribute import attribute
from veracausa.units.edges import Edges

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Central difference of sixth order: weights of f(+h) − f(−h), f(+2h) − f(−2h), f(+3h) − f(−3h), over h.
_STENCIL = (3 / 4, -3 / 20, 1 / 60)
#: Its step, as a share of the edge's change, by the precision that the model computes in; and where MLPs have corners
#: (the slope is that of one side of them, so the step must stay there; a squared ReLU has none in its slope, so the
#: usual step is tried there, too). Rounding is divided by it, curvature grows with its sixth power.
_STEPS = {torch.float64: (2e-3, 1e-5), torch.float32: (0.03, 1e-4)}


def circuits_equal_bare_runs(lm: Model, task: Task, edges: Edges | None = None) -> float:
    """Contract 4: the largest error of M of circuits, against bare runs (the clean, the corrupted, one with a hook).

    All edges; none; all but one, for each of `edges` (default: a few of every kind), which `vc.exact` must give, too;
    all but those out of one writer, for the writers of `edges` other than the input.
    """
    task, edges = task[0], _some_edges(lm) if edges is None else edges
    whole = all_edges_mask(lm.graph)
    writers = [writer for writer in np.unique(edges.writer).tolist() if writer]
    masks = [whole, np.zeros_like(whole), *without_edges(whole, edges.writer, edges.reader)]
    masks += [without_writers(whole, [writer]) for writer in writers]
    ours = run_circuits(lm, task, masks, show_progress=False).metric[:, 0].tolist()
    effects = exact(lm, task, units=edges, show_progress=False).values[0].tolist()
    with _bare(lm, task) as bare:
        ends = [bare.run(), bare.run(corrupted=True)]
        alone = [bare.reading(int(w), int(r), [1.0])[0] for w, r in zip(edges.writer, edges.reader, strict=True)]
        patched = [bare.writing(writer) for writer in writers]
    wrong = [one - other for one, other in zip(ours, [*ends, *alone, *patched], strict=True)]
    wrong += [effect - (one - ends[0]) for effect, one in zip(effects, alone, strict=True)]
    return max(map(abs, wrong))


def eap_is_the_slope(lm: Model, task: Task, edges: Edges | None = None) -> float:
    """Contract 6: the largest error of EAP's scores against central differences of the exact effect of an edge.

    The reader alone sees the stream changed by t times the edge's change, for small t of both signs.
    """
    task, edges = task[0], _some_edges(lm) if edges is None else edges
    scores = attribute(lm, task, units=edges, method="eap", show_progress=False).values[0].tolist()
    longest, worst = _STEPS.get(precision_of(lm.decoder).dtype, (0.3, 0.3))[: 1 + lm.decoder.has_corners], 0.0
    # a wrong score is wrong by any step; curvature, corners and rounding each spoil some of them
    steps = [step for one in reversed(longest) for step in (one, one / 4, one / 16)]
    scales = [sign * k * step for step in steps for k in range(1, 1 + len(_STENCIL)) for sign in (1, -1)]
    with _bare(lm, task) as bare:
        for score, writer, reader in zip(scores, edges.writer.tolist(), edges.reader.tolist(), strict=True):
            found = iter(bare.reading(writer, reader, scales))
            slopes = [sum(weight * (next(found) - next(found)) for weight in _STENCIL) / step for step in steps]
            worst = max(worst, min(abs(score - slope) for slope in slopes))
    return worst


def readers_sum_to_the_stream(lm: Model, task: Task) -> float:
    """Contract 13: gradients at the readers of each place of the stream against the backward pass of the modules.

    What a block's attention (or MLP) adds to the stream's gradient is that before it minus that behind it. The two are
    compared along the change of the stream between the runs, and along its coordinates in reverse order.
    """
    task, decoder, worst = task[0], lm.decoder, 0.0
    with borrowed(decoder):
        tape = record_pairs(decoder, *pair_ids(lm, task, (0,)), 0, examples=(0,), sites=READS, grad="clean")
        state, other, closed = tape.clean, tape.corrupted, Reads(decoder, frozen=False)
        wanted = closed.wanted(state)
        with torch.enable_grad():
            metric = readout(lm, task, tape).of_state(state).sum()
            found = torch.autograd.grad(metric, [*wanted, *state.residual, *state.middle], materialize_grads=True)
        stream = list(found[len(wanted) : len(wanted) + lm.layers + 1])
        middle = whole_middles(decoder, list(found[len(wanted) + lm.layers + 1 :]), stream)
        with torch.no_grad():
            for reader, gradient in closed.gradients(state, list(found[: len(wanted)])):
                if reader == lm.graph.readers - 1:
                    continue
                layer, kind = int(lm.graph.reader_layer[reader]), lm.graph.reader_kind[reader]
                own, late = gradient.sum(0), kind == MLP
                past = decoder.blocks[layer].behind(stream[layer + 1])
                if decoder.blocks[layer].parallel:  # both read the same stream
                    if not late:
                        attention = own
                        continue
                    own, before, behind = own + attention, stream[layer], past
                else:
                    before, behind = (middle[layer], past) if late else (stream[layer], middle[layer])
                streams = (run.middle[layer] if late else run.residual[layer] for run in (other, state))
                change = torch.sub(*streams).to(own.dtype)
                wrong = own - (before - behind).to(own.dtype)
                worst = max(worst, *(abs(float((wrong * along).sum())) for along in (change, change.flip(-1))))
    return worst


def _some_edges(lm: Model) -> Edges:
    """One edge into every kind of reader, early, in the middle and late; heads, MLPs and the input write in turn."""
    graph = lm.graph
    attention, mlps = lm.decoder.layers_with("attention"), lm.decoder.layers_with("mlp")
    mixers, asked = lm.decoder.layers_with("mixer"), list[tuple[int, int, int]]()  # layer, kind, first or last of it
    if attention:
        ordered = (*attention, attention[len(attention) // 2])
        others = {kind: layer for layer in ordered for kind in graph.attention_readers(layer) if kind != Q}
        asked.append((attention[0], Q, 0))
        asked += [(layer, kind, -1 if kind == V else 0) for kind, layer in others.items()]
    asked += [(mlps[len(mlps) // 2], MLP, 0)] if mlps else []
    asked += [(attention[-1], Q, -1)] if attention else []
    asked += [(mlps[-1], MLP, 0)] if mlps else []
    asked += [(lm.layers, LOGITS, 0), *((layer, MIXER, 0) for layer in (*mixers[:1], *mixers[-1:]))]
    of_heads = np.where(graph.writer_kind == WRITER_MIXER, HEAD, graph.writer_kind)
    ends = set()
    for number, (layer, kind, which) in enumerate(asked):
        reader = int(np.flatnonzero((graph.reader_layer == layer) & (graph.reader_kind == kind))[which])
        seen = np.flatnonzero(graph.writer_order <= graph.reader_order[reader])
        kinds = [seen[of_heads[seen] == (HEAD, WRITER_MLP, INPUT)[(number + turn) % 3]] for turn in range(3)]
        ends.add((reader, int(next(found[-1] for found in kinds if len(found)))))
    reader, writer = np.array(sorted(ends)).T
    return Edges.of(graph, writer, reader)


@dataclass(frozen=True)
class _Bare:
    """The bare model on one pair, whole prompts; M of every run."""

    lm: Model
    ids: tuple[Tensor, Tensor]
    tape: Tape
    read: Readout

    def run(self, *handles: Any, rows: int = 1, corrupted: bool = False) -> Any:
        """M of a run under some hooks; a list, if of several rows."""
        with hooks(*handles):
            at_rest(self.lm.decoder)
            logits = self.lm.hf(self.ids[corrupted].expand(rows, -1), use_cache=False).logits[:, -self.read.tail :]
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found = self.read.of_logits(exact, torch.zeros(rows, dtype=torch.long, device=self.lm.device)).tolist()
        return found if rows > 1 else found[0]

    def change(self, writer: int) -> Float[Tensor, "1 positions width"]:
        """Write in the corrupted run minus write in the clean run."""
        first = torch.zeros(1, dtype=torch.long, device=self.lm.device)
        return write_changes(self.lm.decoder, self.tape.clean, self.tape.corrupted, first + writer, first)

    def writing(self, writer: int) -> float:
        """M of the clean run in which a head, a mixer or an MLP writes what it writes in the corrupted run."""
        graph, delta = self.lm.graph, self.change(writer)
        block = self.lm.decoder.blocks[graph.writer_layer[writer]]
        if graph.writer_kind[writer] == WRITER_MIXER and block.mixer is not None:
            block = block.mixer
        if graph.writer_kind[writer] in (HEAD, WRITER_MIXER):
            module, factor = block.attention_post_norm or block.attention_out, block.attention_factor
        else:
            module, factor = block.mlp_post_norm or block.mlp_end, block.mlp_factor
        return self.run(changing(module, lambda out: out + (delta / factor).to(out.dtype)))

    def reading(self, writer: int, reader: int, scales: Sequence[float]) -> list[float]:
        """M of clean runs in which a reader alone sees the stream plus t times the change of a write, for each t."""
        graph, decoder, clean = self.lm.graph, self.lm.decoder, self.tape.clean
        layer, kind, index = (int(a[reader]) for a in (graph.reader_layer, graph.reader_kind, graph.reader_index))
        stream = clean.middle[layer] if kind == MLP else clean.residual[layer]
        times = torch.tensor(scales, device=self.lm.device, dtype=self.lm.score_dtype)[:, None, None]
        change = arriving(decoder, layer, [writer], self.change(writer))
        seen, rows = stream + (times * change).to(stream.dtype), len(scales)
        if kind == LOGITS:
            handle: Any = decoder.final_norm.register_forward_pre_hook(lambda _, __: (seen,))
        elif kind == MIXER:
            mixer = decoder.blocks[layer].mixer
            assert mixer is not None
            normed = mixer.given(seen)
            handle = mixer.attention.register_forward_pre_hook(giving(lambda _: normed), with_kwargs=True)
        elif kind == MLP:
            block = decoder.blocks[layer]
            new, handle = block.mlp_norm(seen), []
            if isinstance(block.mlp, NormedMLPs):
                handle = block.mlp.reading(lambda flat: seen.reshape(flat.shape).to(flat.dtype))
            handle.append(
                block.mlp_start.register_forward_pre_hook(lambda _, args: (new.view(-1, *args[0].shape[1:]),))
            )
        else:
            block, count, by = decoder.blocks[layer], graph.attention_readers(layer)[kind], of_projection(kind)
            own = block.layout.projected(by, block.projections[by](block.given(seen)), count, block.head_dim)

            def replace(_: Any, __: Any, output: Tensor) -> Tensor:
                output = output.clone()
                one = slice(max(0, index), max(0, index) + 1)
                block.layout.put(by, output, one, own[:, :, one], count, block.head_dim)
                return output

            handle = block.projections[by].register_forward_hook(replace)
        found = self.run(*(handle if isinstance(handle, list) else [handle]), rows=rows)
        return found if rows > 1 else [found]


@contextmanager
def _bare(lm: Model, task: Task) -> Iterator[_Bare]:
    ids = pair_ids(lm, task, (0,))
    with borrowed(lm.decoder), torch.no_grad():
        tape = record_pairs(lm.decoder, *ids, 0, examples=(0,), sites=SITES)
        yield _Bare(lm, ids, tape, readout(lm, task, tape))

"""`Sheaf`: weights and edges that are kept, and what they do alone.

f of a run = (mean M − mean M(∅)) / (mean M(full) − mean M(∅)), M(∅) with every edge at zero. Four runs are told:

* **sheaf**: closed weights at zero, and closed edges, too;
* **complement**: all that the sheaf leaves out, weights and edges (all edges where it has all): one that is complete
  leaves nothing to it;
* **weights**: its weights with all edges; **edges**: its edges with all weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.anatomy import decoder_of
from veracausa.circuits.circuit import Circuit, pack_circuit
from veracausa.circuits.exchange.files import unpack_circuit
from veracausa.circuits.runs.run_circuits import Ran
from veracausa.cost import Cost
from veracausa.engine.masked_weights import Weights
from veracausa.errors import CircuitError
from veracausa.statistics.ratios import ratios
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, mapped, reading, record, require_tensors, text, whole
from veracausa.tasks.measurement import Measurement
from veracausa.words import plain, share

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float

    from veracausa.model import Model

#: What is run, in this order, and what each is.
RUNS = {
    "sheaf": "its weights and its edges",
    "complement": "all other weights and edges",
    "weights": "its weights, all edges",
    "edges": "its edges, all weights",
}


@dataclass(frozen=True, eq=False)
class Sheaf(Ran):
    """Weights and edges that are kept, and what they do alone: f of four runs, M(∅) being that with every edge at zero.

    f = (mean M − mean M(∅)) / (mean M(full) − mean M(∅)) of the **sheaf** (closed weights and edges at zero), of its
    **complement** (all that it leaves out: one that is complete leaves nothing to it), of its **weights** with all
    edges, and of its **edges** with all weights.

    `circuit`: the edges; `masks`: of every gated weight which of its numbers are kept; `metric`, `kl`: M, and KL from
    the bare clean run's output, of every run of `RUNS` and pair; `measured`: M of the bare clean run and without edges.

    >>> found = vc.circuits.sheaf(lm, task)
    >>> found.f, found.open_weights, found.open_edges
    """

    circuit: Circuit
    masks: Mapping[str, Bool[Tensor, ...]]
    metric: Float[Tensor, "runs examples"]
    kl: Float[Tensor, "runs examples"]
    measured: Measurement
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def open_weights(self) -> float:
        """Kept weights / all weights of attentions and MLPs."""
        return sum(int(one.sum()) for one in self.masks.values()) / sum(one.numel() for one in self.masks.values())

    @property
    def open_edges(self) -> float:
        """Kept edges / all edges of the graph."""
        return self.circuit.share

    @cached_property
    def _shares(self) -> tuple[Float[Tensor, " runs"], Float[Tensor, " runs"]]:
        """f of every run, and its standard error over pairs."""
        return ratios((self.metric - self.measured.corrupted).T.double(), self.measured.gap)[:2]

    @property
    def f(self) -> float:
        """Faithfulness of the sheaf; see the module."""
        return float(self._shares[0][0])

    @property
    def complement(self) -> float:
        """f of what it leaves out: 0 where nothing is left."""
        return float(self._shares[0][1])

    def table(self) -> pd.DataFrame:
        """One row per run: f with its error, mean M, share of pairs with M over 0, mean KL from the clean run."""
        import pandas as pd

        values, errors = (one.tolist() for one in self._shares)
        return pd.DataFrame(
            {
                "run": [*RUNS],
                "f": values,
                "stderr": errors,
                "metric": self.metric.double().mean(1).tolist(),
                "positive": (self.metric > 0).double().mean(1).tolist(),
                "kl": self.kl.double().mean(1).tolist(),
            }
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """How large the sheaf is, what it does alone, and what is left without it."""
        values, errors = (one.tolist() for one in self._shares)
        size = (
            f"The sheaf keeps {self.open_weights:.2%} of the weights of attentions and MLPs and {self.open_edges:.2%} "
            f"of the edges."
        )
        alone = f"Alone it has {share(values[0], errors[0])[values[0] >= 0 :]} of the gap"
        left = f"all that it leaves out {share(values[1], errors[1])[values[1] >= 0 :]}"
        return size, f"{alone}, {left}; its weights with all edges have {plain(values[2], 2)}."

    def describe(self) -> str:
        """What was found, and what its runs gave."""
        lines = [
            f"sheaf of {len(self.circuit):,} edges ({self.open_edges:.2%}) and {self.open_weights:.2%} of the weights",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            self.table().to_string(index=False, float_format="{:+.3f}".format),
            f"cost    {self.cost.describe()}",
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return self.describe()

    def require_for(self, lm: Model) -> Weights:
        """The model's weights, if the sheaf is about this model.

        Raises:
            CircuitError: it was found in another model, or in another state of it.
        """
        self.circuit.require_for(lm)
        weights = Weights.of(lm.decoder)
        shapes = {name: list(one.shape) for name, one in weights.values.items()}
        if shapes != {name: list(one.shape) for name, one in self.masks.items()}:
            raise CircuitError(f"The sheaf's masks do not fit the weights of {lm.name}.")
        return weights

    def masked(self, lm: Model) -> Model:
        """A copy of the model whose closed weights are zero; its edges are all there. Memory: the weights once more.

        Raises:
            CircuitError: the sheaf is about another model.

        >>> sheaf.masked(lm).measure(task)
        """
        self.require_for(lm)
        own = copy.deepcopy(lm.hf)
        parameters = dict(own.named_parameters())
        with torch.no_grad():
            for name, mask in self.masks.items():
                parameters[name].mul_(mask.to(parameters[name]))
        source = f"{lm.source}, closed weights at zero"
        return replace(lm, hf=own, source=source, decoder=decoder_of(own, lm.decoder.anatomy))

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, masks in bits, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = self.about | {"notes": self.notes}
        header["circuit"] = pack_circuit(self.circuit) | {"edges": self.circuit.names}
        header["shapes"] = {name: list(one.shape) for name, one in self.masks.items()}
        tensors = {"metric": self.metric, "kl": self.kl, **self.measured.ends}
        tensors |= {f"mask/{name}": _packed(one) for name, one in self.masks.items()}
        return write_tensors(path, FORMAT, header, tensors)


def _packed(mask: Tensor) -> Tensor:
    """A mask in bits, eight to a byte."""
    return torch.from_numpy(np.packbits(mask.flatten().numpy()))


def _unpacked(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    if bits.dtype != torch.uint8 or bits.ndim != 1 or len(bits) != (count + 7) // 8:
        raise ValueError(f"a mask of {count} weights has {tuple(bits.shape)} bytes")
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).view(shape)


FORMAT = "veracausa-sheaf-1"
_HEADER = record(
    model=MODEL, task=TASK, cost=cost, notes=many(text), settings=record(ablation=text),
    circuit=record(edges=many(text)), shapes=mapped(many(whole(1), least=1)),
)  # fmt: skip


def load_sheaf(path: str | Path) -> Sheaf:
    """Read what `Sheaf.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        told = _HEADER(header)
        runs = {"metric": "finite runs pairs", "kl": "finite runs pairs"}
        require_tensors(tensors, runs | dict.fromkeys(("clean", "corrupted"), "finite pairs"), runs=len(RUNS))
        circuit = unpack_circuit(told["circuit"], list(told["circuit"]["edges"]), None, at(path))
        masks = {name: _unpacked(tensors[f"mask/{name}"], shape) for name, shape in told["shapes"].items()}
        if not masks:
            raise ValueError("it has no masks")
        measured = Measurement(tensors["clean"], tensors["corrupted"])
        plainly = {name: told[name] for name in ("cost", "model", "task", "settings", "notes")}
        return Sheaf(circuit, masks, tensors["metric"], tensors["kl"], measured, **plainly)

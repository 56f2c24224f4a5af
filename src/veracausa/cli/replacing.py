"""What you put in a unit's place yourself, on the command line: tensors in a file, a vector added, noise."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, cast

from veracausa.cli.command import Options
from veracausa.cli.unit_options import Draws, Scale, TensorFile
from veracausa.errors import MethodError
from veracausa.scores.estimands import ABLATIONS, INSTEAD
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from veracausa.effects.instead import Instead
    from veracausa.effects.tensor_files import GivenTensors
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Option → the ablations that take it.
_FOR = {"tensor": ("own", "added"), "scale": ("added", "scaled", "noise"), "draws": ("noise",)}


class ReplacingOptions(Options):
    """What `--ablation own`, `added`, `scaled` and `noise` take."""

    tensor: TensorFile = None
    scale: Scale = None
    draws: Draws = None

    def require(self, ablation: str, direction: str, seed: int) -> GivenTensors | None:
        """The tensors of the file, where one is needed; errors for options that do not belong together."""
        if ablation not in (*ABLATIONS, *INSTEAD):
            raise MethodError(not_known("ablation", ablation, [*ABLATIONS, *INSTEAD]))
        for option, wanted in _FOR.items():
            if getattr(self, option) is not None and ablation not in wanted:
                raise MethodError(f"--{option} is for --ablation {' and '.join(wanted)}. Leave it out.")
        if ablation not in INSTEAD:
            return None
        if direction != "noising":
            raise MethodError(f"--ablation {ablation} is put into the clean run. Leave --direction {direction} out.")
        if ablation == "scaled" and self.scale is None:
            raise MethodError(
                "--ablation scaled needs --scale: the factor that units' own activations are multiplied by."
            )
        if ablation in ("noise", "scaled"):
            self._of_its_own(ablation, seed)
            return None
        return tensors_of(self.tensor, f"--ablation {ablation}")

    def made(
        self,
        ablation: str,
        tensors: GivenTensors | None,
        lm: Model,
        task: Task,
        units: str | Collection[str],
        seed: int,
    ) -> str | Instead:
        """The ablation as `vc.exact` takes it: its name, or what is put in the units' place."""
        from veracausa.effects.instead import Added, Own
        from veracausa.units.resolve import resolve_units

        if tensors is None:
            return self._of_its_own(ablation, seed) if ablation in INSTEAD else ablation
        values = tensors.of(resolve_units(lm, units, max(task.lengths), groups=True, spans=task))
        return Own(values) if ablation == "own" else Added(values, 1.0 if self.scale is None else self.scale)

    def _of_its_own(self, ablation: str, seed: int) -> Instead:
        from veracausa.effects.instead import Noise, Scaled

        scale, draws = self.scale, self.draws
        if ablation == "scaled":
            return Scaled(cast("float", scale))
        return Noise(1.0 if scale is None else scale, 8 if draws is None else draws, seed)


def tensors_of(place: str | None, who: str) -> GivenTensors:
    """The tensors of a file; a MethodError where none is named, a FileError for one that cannot be read."""
    from veracausa.effects.tensor_files import given_tensors

    if place is None:
        raise MethodError(f"{who} needs --tensor FILE.safetensors, which holds a tensor a unit, by the unit's name.")
    return given_tensors(place)

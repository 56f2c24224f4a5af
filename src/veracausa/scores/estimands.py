"""What an effect is of, by name: direction, what replaces a unit, what an estimate moves towards; plain tables."""

from __future__ import annotations

from veracausa.choices import Ablation, Direction, Restored, TwoAblations

#: Direction → what is patched.
DIRECTIONS: dict[Direction, str] = {
    "noising": "the clean run, with a unit replaced",
    "denoising": "the corrupted run, with a unit's clean value restored",
}
#: Ablation → what a unit is replaced by.
ABLATIONS: dict[Ablation, str] = {
    "counterfactual": "its value in the corrupted run of the same pair",
    "zero": "zeros",
    "mean": "its mean over the prompts",
    "resample": "its value in another prompt of the same length",
    "optimal": "the learned constant that lets the model do best without it",
}
#: Those that need no learning.
UNLEARNED = tuple(name for name in ABLATIONS if name != "optimal")
#: Those that depend on a reference set.
REFERRING = ("mean", "resample")
#: Those that are known of a pair alone, whatever share of the way to them a unit goes.
TWO_ABLATIONS: tuple[TwoAblations, ...] = ("counterfactual", "zero")
#: What you put in a unit's place yourself (`vc.effects.Own`, `Added`, `Scaled`, `Noise`) → in words.
INSTEAD: dict[str, str] = {
    "own": "your own tensor",
    "added": "itself and a vector of yours",
    "scaled": "itself times a factor",
    "noise": "itself and Gaussian noise",
}
#: What causal tracing restores → in words.
RESTORED: dict[Restored, str] = {
    "residual": "the residual stream that enters a block",
    "mlps": "an MLP's output",
    "attention": "an attention layer's output",
}
#: What units move towards → the ablation whose effect that estimates.
BASELINES: dict[str, Ablation] = {"corrupted" if name == "counterfactual" else name: name for name in ABLATIONS}

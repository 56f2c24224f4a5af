"""Every call compares its longest pair's recorded runs with the bare model's runs of the whole prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.engine.guard import as_found, borrowed, compared_in
from veracausa.engine.sharing import from_rest
from veracausa.engine.tape import BY_OURS
from veracausa.engine.validate import rounding
from veracausa.errors import ContractError

if TYPE_CHECKING:
    from veracausa.engine.readout import Readout
    from veracausa.engine.tape import State, Tape
    from veracausa.model import Model
    from veracausa.tasks.task import Task


#: Stands for the short pair among what a call has compared.
_SHORT = (0, (True, True), 0)


def require_whole(lm: Model, task: Task, tape: Tape, read: Readout) -> None:
    """The longest pair's recorded runs are what the bare model gives for its whole prompts, side by side in one batch.

    No prefix is shared there, no keys and values are kept, and the attention function is the user's: this guard shares
    nothing with what it guards. It compares the first of the task's longest pairs, once a call for runs that share a
    prefix and once for runs that do not, and each once more where our attention function records them: 2 · n · L
    token-layers, which no cost counts, since they are no method's own.
    (Heads of SmolLM2-135M: 960 beside 30,885 for the published pair, 1,260 beside 218,355 for eight.)

    Of a bucket of several lengths the shortest pair is run by itself, too.

    Raises:
        ContractError: the logits differ by more than rounding.
    """
    _require_longest(lm, task, tape, read)
    _require_short(lm, task, tape, read)


def _require_longest(lm: Model, task: Task, tape: Tape, read: Readout) -> None:
    """The longest pair; see above."""
    by_ours = not set(BY_OURS).isdisjoint(tape.clean.sites)
    key = tape.length, (tape.start > 0, by_ours), tape.tail
    with borrowed(lm.decoder) as loan, torch.no_grad():
        known = any(key[:2] == one[:2] and tape.tail <= one[2] for one in loan.verified)
        if tape.length < max(task.lengths) or known:
            return
        runs = {"clean": (tape.tokens[0], tape.clean), "corrupted": (tape.tokens[1], tape.corrupted)}
        with from_rest(lm.decoder), as_found(lm.decoder) as hf:
            ids = torch.cat([prompts[:1] for prompts, _ in runs.values()])
            logits = hf(input_ids=ids, use_cache=False, logits_to_keep=tape.tail).logits[:, -tape.tail :]
        for number, (which, (_, state)) in enumerate(runs.items()):
            _require_alike(lm, task, tape, read, which, state, logits[number : number + 1])
        loan.verified.add(key)


def _require_short(lm: Model, task: Task, tape: Tape, read: Readout) -> None:
    """Of a bucket of several lengths the shortest pair has the bare model's M for its own prompts, which end there.

    Once a call: nothing that is run behind a prompt's end changes what is read in it.
    """
    short = min(range(len(tape.examples)), key=lambda row: task.lengths[tape.examples[row]])
    pair = tape.examples[short]
    with borrowed(lm.decoder) as loan, torch.no_grad():
        if task.lengths[pair] == tape.length or _SHORT in loan.verified:
            return
        with from_rest(lm.decoder), as_found(lm.decoder) as hf:
            ids = torch.tensor([task.clean[pair], task.corrupted[pair]], device=lm.device)
            bare = hf(input_ids=ids, use_cache=False).logits
        for which, state, logits in zip(("clean", "corrupted"), (tape.clean, tape.corrupted), bare, strict=True):
            for place, at in zip(read.places[short].tolist(), task.places[pair], strict=False):
                ours = lm.decoder.logits(state.end(read.tail)[short : short + 1, place].detach())[0]
                worst = float((ours - logits[at]).abs().max())
                if worst > rounding(compared_in(lm.decoder), 1 + float(logits.abs().max()), lm.layers):
                    raise ContractError(
                        f"The {which} prompt of pair {pair} of {task.name!r} ({task.lengths[pair]:,} tokens) has other "
                        f"logits at position {at} in a batch of longer prompts than the bare {lm.name} has for it "
                        f"alone (they differ by up to {worst:.3g}): something depends on the prompt's length, "
                        "or looks behind its end, so nothing is returned. Run lm.check() and report what it prints."
                    )
        loan.verified.add(_SHORT)


def _require_alike(lm: Model, task: Task, tape: Tape, read: Readout, which: str, state: State, logits: Tensor) -> None:
    """The first prompt of a recorded run has the bare model's logits at its answers, everywhere in the tail.

    Where there are no answers, at the likeliest token.
    """
    answers = read.answers.tokens[: read.places.shape[1]].flatten()
    tokens = answers.expand(tape.tail, -1) if len(answers) else logits[0].argmax(-1, keepdim=True)
    worst = float(
        (lm.decoder.logits(state.end(tape.tail)[0].detach(), tokens) - logits[0].gather(1, tokens)).abs().max()
    )
    if worst <= rounding(compared_in(lm.decoder), 1 + float(logits.abs().max()), lm.layers):
        return
    first = torch.zeros(1, dtype=torch.long, device=lm.device)
    ours, bare = float(read(state.end(tape.tail)[:1].detach(), first)), float(read.of_logits(logits, first))
    how = f"takes its first {tape.start:,} tokens from a run of them alone" if tape.start else "keeps keys and values"
    raise ContractError(
        f"The {which} prompt of pair {tape.examples[0]} of {task.name!r} ({tape.length:,} tokens), run whole by the "
        f"bare {lm.name}, gives {task.metric} = {bare:.6g}; the engine's run, which {how}, gives {ours:.6g} (logits "
        f"differ by up to {worst:.3g}). Something in the model depends on the prompt's length, or on how it is run, in "
        "a way that the engine does not know, so nothing is returned. Where the call takes share_prefix=False, try "
        "that; run lm.check() and report what it prints."
    )

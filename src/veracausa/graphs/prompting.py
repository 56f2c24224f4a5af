"""A prompt in plain words as a task of its own: M is the logit of one token behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from veracausa.engine.guard import borrowed
from veracausa.errors import AnswerError, MethodError
from veracausa.model import Model
from veracausa.tasks.custom import task as custom_task
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import encode_answer, encode_prompt, tokenizer_of


def prompt(lm: Model, text: str, token: str | int | None = None) -> Task:
    """A task of one prompt without a counterpart, whose metric is the logit of a token that may follow it.

    Args:
        lm: the model.
        text: the prompt.
        token: the token, as text with its leading space, or its id; default: the likeliest one, by a run of the model.

    Raises:
        PromptError, AnswerError: an empty prompt, or a token that is none.

    >>> task = vc.graphs.prompt(lm, "The capital of France is", " Paris")
    >>> vc.graphs.attribution_graph(lm, task, targets="top", dictionary=transcoders)
    """
    if token is None:
        tokenizer = tokenizer_of(lm)
        ids = encode_prompt(tokenizer, text, "the prompt")
        with torch.no_grad(), borrowed(lm.decoder):
            logits = lm.hf(torch.tensor([ids], device=lm.device), use_cache=False).logits[0, -1]
        token = int(logits[: len(tokenizer)].argmax())  # rows behind are of no token
    return custom_task(lm, clean=[text], correct=[token], metric="logit", paired=False, name="prompt")


def tokens_of(lm: Model, one: Task, names: Sequence[str | int]) -> list[int]:
    """Ids of tokens that may follow a task's only prompt, by their texts.

    Raises:
        AnswerError: a text is not one token there. MethodError: there is none, or one twice.
    """
    tokenizer = None if all(isinstance(name, int) for name in names) else tokenizer_of(lm)
    text = (one.clean_text[0] if one.clean_text else "") or "".join(one.tokens(0)[0])
    if tokenizer is None:
        found = [int(name) for name in names]
        if wrong := [token for token in found if not 0 <= token < lm.decoder.unembedding_map.weight.shape[1]]:
            raise AnswerError(f"targets: {lm.name} has no token {wrong[0]}.")
    else:
        found = [encode_answer(tokenizer, text, one.clean[0], name, "targets") for name in names]
    if not found or len({*found}) < len(found):
        raise MethodError(f"targets={list(names)}: name at least one token, and each once.")
    return found

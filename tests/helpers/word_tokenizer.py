"""Tiny real tokenizers for tests: one token per word, or GPT-2-like byte-level BPE with two-digit number tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

UNKNOWN, START = "<unk>", "<s>"


def word_tokenizer(words: Iterable[str], *, start: bool = False, end: bool = False) -> PreTrainedTokenizerFast:
    """One token per word of the list, with and without its leading space (" Mary", "Mary"); others are unknown.

    Words are cut as in GPT-2 (letters, digits, other signs). `start`, `end`: add <s> before, <unk> after each text.
    """
    pieces = sorted({piece for word in words for piece in re.findall(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]+", word)})
    vocabulary = {token: i for i, token in enumerate([UNKNOWN, START, *pieces, *(f"Ġ{piece}" for piece in pieces)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    return _finish(tokenizer, vocabulary, start=start, end=end)


def digit_pair_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, " 11" … " 18" and all two-digit numbers: years split as GPT-2 splits them, " 1732" = " 17" + "32"."""
    digits = "0123456789"
    centuries = [("1", d) for d in digits]
    merges = [*centuries, *(("Ġ", f"1{d}") for d in digits), *((a, b) for a in digits for b in digits if a != "1")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([UNKNOWN, START, *alphabet, *(a + b for a, b in merges)])}
    return _finish(Tokenizer(models.BPE(vocabulary, merges)), vocabulary)


def _finish(
    tokenizer: Tokenizer, vocabulary: dict[str, int], *, start: bool = False, end: bool = False
) -> PreTrainedTokenizerFast:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if start or end:
        single = f"{START if start else ''} $A {UNKNOWN if end else ''}".strip()
        special = [(token, vocabulary[token]) for token in (START, UNKNOWN)]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN, bos_token=START)

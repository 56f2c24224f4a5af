"""A tiny model in a folder, pairs in a file, and the command line called on them."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import tiny_models
import torch
import typer.testing
from typer.testing import CliRunner
from word_tokenizer import word_tokenizer

from veracausa.cli.app import app

#: Twenty-eight commands are made of their functions once, not at every call.
typer.testing._get_command = cache(typer.testing._get_command)
TEXT = "After John and Mary Anna Tom went to the store , gave a bottle of milk key keys are is cabinet near"
PAIRS = (
    ("After the keys near the cabinet", "After the key near the cabinet", " are", " is"),
    ("the keys near the store", "the key near the store", " are", " is"),
)


def model_folder(path: Path, tokenizer=None) -> Path:
    """A tiny Llama with a word tokenizer, saved as a model folder."""
    tokenizer = tokenizer or word_tokenizer(TEXT.split())
    hf = tiny_models.make("llama", seed=1, dtype=torch.float32, vocab_size=len(tokenizer))
    hf.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def pairs_file(path: Path, rows=PAIRS) -> Path:
    """Prompt pairs as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clean", "corrupted", "correct", "incorrect"])
        writer.writerows(rows)
    return path


def called(folder: Path, *words):
    """A command with the model of a folder."""
    return CliRunner().invoke(app, [str(word) for word in words] + ["--model", str(folder), "--device", "cpu"])

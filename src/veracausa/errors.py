"""Every error that veracausa raises on purpose, and what it warns of.

Each message says what was wrong, where, and what to do about it, in that order. Users catch
`VeracausaError` for all of them, or one subclass.
"""

from __future__ import annotations

from veracausa.terminal import printable


class VeracausaError(Exception):
    """Base of every error that veracausa raises on purpose."""

    def __str__(self) -> str:
        # Names in it come from files and models, and the text goes to a terminal.
        return printable(super().__str__())


class PromptError(VeracausaError):
    """A clean/corrupted pair cannot be compared: lengths differ, prompts are equal or empty."""


class AnswerError(VeracausaError):
    """An answer is not a single token, or correct and incorrect answers overlap."""


class TaskError(VeracausaError):
    """A task cannot be built for this tokenizer, is empty, or its file lacks something."""


class GapError(VeracausaError):
    """The model does not separate clean from corrupted: the mean gap is zero."""


class NumericsError(VeracausaError):
    """NaN or infinity in a run; the message names the layer where it first appears."""


class ArchitectureError(VeracausaError):
    """The model is not a decoder that veracausa knows; the message names what is missing."""


class DeviceError(VeracausaError):
    """The model lies on several devices or on none (meta)."""


class OutOfMemoryError(VeracausaError):
    """One row of a run does not fit into memory, even alone."""


class FileError(VeracausaError):
    """A file is missing, damaged, cut short, or not one of ours."""


class VersionError(FileError):
    """A result in a form that this version of veracausa does not read."""


class DownloadError(VeracausaError):
    """A package or model could not be fetched, or its checksum is wrong."""


class CircuitError(VeracausaError):
    """A circuit of another model or graph, with positions, or without edges where some are needed."""


class MethodError(VeracausaError):
    """A combination of options means nothing; the message says why."""


class UnitError(VeracausaError):
    """A name of a part of the model does not exist in this model."""


class ExtraError(VeracausaError):
    """A library is missing that a plain install leaves out; the message names the extra that brings it."""


class ContractError(VeracausaError):
    """A contract failed on this very model: its numbers here cannot be trusted."""


class WorkerError(VeracausaError):
    """A worker of a sweep stopped by itself; the message says why."""


class AnswerFormWarning(UserWarning):
    """The model says the answers in another form: without the leading space, say, or capitalised."""


class DictionaryWarning(UserWarning):
    """A dictionary was made for another model, or leaves out something of its files."""

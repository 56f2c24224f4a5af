"""Options of commands whose units may be features: the dictionaries that are laid on the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from veracausa.cli.command import Options
from veracausa.cli.options import Dictionaries

if TYPE_CHECKING:
    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.model import Model


class LayingOptions(Options):
    """Dictionaries of features."""

    dictionary: Dictionaries = None

    def on(self, lm: Model) -> Model:
        """The model with them; each PATH may say its site, and with several in one layer its name: PATH@r10:name.

        Of a folder of circuit-tracer those of all its layers are taken.
        """
        if not self.dictionary:
            return lm
        from veracausa.loading.dictionaries.read import dictionary, has_several, transcoders

        read: list[Dictionary] = []
        for asked in self.dictionary:
            path, _, where = asked.rpartition("@") if "@" in asked else (asked, "", "")
            site, _, name = where.partition(":")
            if not site and has_several(path):
                read += transcoders(lm, path, name=name)
            else:
                read.append(dictionary(lm, path, site or None, name=name))
        return lm.reading(*read)

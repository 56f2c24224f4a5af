"""Options of commands whose units may be features or components: what is laid on the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from veracausa.cli.command import Options
from veracausa.cli.unit_options import Against, Components, Dictionaries
from veracausa.errors import MethodError
from veracausa.terminal import say

if TYPE_CHECKING:
    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.model import Model


class PartsOptions(Options):
    """Which components of weights a command makes, beside singular directions."""

    against: Against = None

    def parts(self, lm: Model, asked: list[str]) -> list[Dictionary]:
        """Components of maps; each entry is MAPS, MAPS@lora or MAPS@FILE, with a name of the set behind a colon.

        MAPS alone are singular directions, with `against` those of the difference to that model.

        Raises:
            MethodError: `against` without an entry that is compared. Others: see `vc.components` and `vc.load`.
        """
        from veracausa.fitting.parts_of_maps import components

        entries = [_entry(one) for one in asked]
        if self.against is not None and all(how for _, how, _ in entries):
            raise MethodError(f"--against {self.against}: of which maps? Name some without @, as in m5.down,m6.down.")
        other = None if self.against is None else _beside(lm, self.against)
        made: list[Dictionary] = []
        for maps, how, name in entries:
            own: dict[str, Any] = how or ({} if other is None else {"against": other})
            made += components(lm, maps, **own, name=name)
        return made


class LayingOptions(PartsOptions):
    """Dictionaries of features, and components of weights that names alone do not say."""

    dictionary: Dictionaries = None
    components: Components = None

    def on(self, lm: Model) -> Model:
        """The model with them.

        Each PATH of a dictionary may say its site, and with several in one layer its name: PATH@r10:name. Of a folder
        of circuit-tracer those of all its layers are taken.
        """
        if self.against is not None and not self.components:
            raise MethodError(f"--against {self.against}: say of which maps, as in --components m5.down.")
        read = self.parts(lm, self.components) if self.components else []
        if not self.dictionary:
            return lm.reading(*read) if read else lm
        from veracausa.loading.dictionaries.read import dictionary, has_several, transcoders

        for asked in self.dictionary:
            path, _, where = asked.rpartition("@") if "@" in asked else (asked, "", "")
            site, _, name = where.partition(":")
            if not site and has_several(path):
                read += transcoders(lm, path, name=name)
            else:
                read.append(dictionary(lm, path, site or None, name=name))
        return lm.reading(*read)


def _entry(asked: str) -> tuple[list[str], dict[str, Any], str | None]:
    """(maps, what they are made of, name of the set) of "m5.down,m6.down@spd.safetensors:spd".

    >>> _entry("a9.q@lora")
    (['a9.q'], {'of': 'lora'}, None)
    """
    from veracausa.dictionaries.components import SET

    before, colon, name = asked.rpartition(":")
    stem = before if colon and SET.fullmatch(name) else asked
    maps, _, what = stem.partition("@")
    how = {} if not what else {"of": "lora"} if what == "lora" else {"factors": what}
    return [one.strip() for one in maps.split(",")], how, name if stem == before and colon else None


def _beside(lm: Model, name: str) -> Model:
    """Another model, in the precision and at the place of the first."""
    from veracausa.loading.load import load

    other = load(name, device=str(lm.device), dtype=str(lm.hf.dtype).removeprefix("torch."))
    say(f"against {other.source}")
    return other

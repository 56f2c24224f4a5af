"""Commands about models: which there are, and whether the contracts hold on one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from veracausa.cli.command import BEGUN, FAILED, spread
from veracausa.cli.listing import listing
from veracausa.cli.options import Json
from veracausa.cli.output import print_json
from veracausa.cli.setup import ModelSetup
from veracausa.errors import ArchitectureError
from veracausa.terminal import echo, say

if TYPE_CHECKING:
    from veracausa.contracts.checks import Check
    from veracausa.loading.resolve import Loaded


def models(json: Json = False) -> None:
    """Which models there are: packaged ones, known architectures, and what lies on this machine."""
    packaged, known, here = _packaged(), _architectures(), _here()
    if json:
        print_json({"packaged": packaged, "architectures": known, "here": here})
        return
    rows = [
        (
            one["name"],
            "ready" if one["ready"] else f"{one['megabytes']} MB to fetch, once",
            one["source"],
            one["licence"],
        )
        for one in packaged
    ]
    echo(listing("Packaged models, the same weights everywhere (--model NAME)", rows))
    echo(f"\nArchitectures of hub models (--model OWNER/NAME), folders and .gguf files\n  {', '.join(known)}")
    echo(listing("\nOn this machine", [_row(one) for one in here]) if here else "\nOn this machine: none yet")


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    kind = model["architecture"] or "no config.json"
    kind += " (unknown)" * (not model["known"]) + ", not whole" * (not model["whole"])
    return model["name"], f"{model['bytes'] / 1e6:,.0f} MB", kind, model["folder"]


def _packaged() -> list[dict[str, Any]]:
    from veracausa.loading.conversion import read_manifest
    from veracausa.loading.packaged import folder_of
    from veracausa.loading.wheels import PACKAGED

    return [
        {
            "name": model.name,
            "source": model.source,
            "licence": model.licence,
            "megabytes": model.megabytes,
            "ready": read_manifest(folder_of(model)) is not None,
        }
        for model in PACKAGED.values()
    ]


def _architectures() -> list[str]:
    """The model types that the hub knows, too: not those of compiled programs."""
    from veracausa.anatomy import FAMILIES

    return sorted(name for name, anatomy in FAMILIES.items() if anatomy.causal)


def _here() -> list[dict[str, Any]]:
    from veracausa.loading.local import local_models

    known = _architectures()
    return [
        {
            "name": one.name,
            "folder": str(one.folder),
            "architecture": one.architecture,
            "known": one.architecture in known,
            "whole": one.whole,
            "bytes": one.size,
        }
        for one in local_models()
    ]


def _proposed(
    setup: ModelSetup, loaded: Loaded, error: ArchitectureError
) -> tuple[dict[str, Any], list[Check], dict[str, Any]]:
    """The anatomy that fits a model of no known family best, its contracts, and what the model is."""
    from veracausa.contracts.proposed import proposed

    say(f"model  {loaded.source}\n       {error}\nlooking at its modules")
    try:
        own, outcomes = proposed(loaded)
    except ArchitectureError as why:
        raise ArchitectureError(f"{error} {why}") from error
    if not setup.json:
        echo(f"An anatomy for {loaded.name}: put it into a file, and give --anatomy FILE.json to every command\n")
        echo(json.dumps(own) + "\n")
    return own, outcomes, {"name": loaded.name, "source": loaded.source}


@spread
def check(setup: ModelSetup) -> None:
    """Test the contracts on this very model, and print each with its error.

    For a model of no known family: what its anatomy may be, read off its modules, and the contracts with that.
    """
    own, loaded = None, setup.find_model()
    try:
        lm = setup.load_model(loaded)
    except ArchitectureError as error:
        if setup.anatomy is not None:
            raise
        own, outcomes, header = _proposed(setup, loaded, error)
    else:
        BEGUN.set(True)
        outcomes, header = lm.check(strict=False), lm.header()
    failed = [one for one in outcomes if not one.ok]
    if setup.json:
        rows = [
            {"number": one.number, "claim": one.claim, "error": one.error, "tolerance": one.tolerance, "holds": one.ok}
            for one in outcomes
        ]
        print_json({"model": header, "holds": not failed, "table": rows} | ({"anatomy": own} if own else {}))
    else:
        for outcome in outcomes:
            echo(outcome)
        echo(
            f"\n{len(failed)} of {len(outcomes)} contracts fail: do not trust effects on this model."
            if failed
            else f"\nAll {len(outcomes)} contracts hold. Errors are shares of the gap M(clean) − M(corrupted)."
        )
    if failed:
        raise typer.Exit(FAILED)

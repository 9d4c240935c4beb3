"""Building a painter: what auto means, which adapters are refused, and every error as one sentence."""

import shutil
from pathlib import Path

import pytest
import torch
from tiny import make_tiny_adapter

from impressionism import names
from impressionism.errors import UserError
from impressionism.pipeline import (
    Painter,
    choose_adapter,
    choose_base,
    choose_quantization,
    load_pipeline,
)
from impressionism.records import GenerationParams

BOAT = GenerationParams(prompt="a boat", steps=2, width=64, height=64)


# ---- What auto means


def test_auto_takes_flux_on_a_gpu_and_the_miniature_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, revision, why = choose_base("auto", None, "cuda")
    assert (base, revision, why) == (names.BASE, None, "a GPU was found")
    assert choose_adapter("auto", None, base) == (names.ADAPTER, None)

    monkeypatch.setattr(names, "MINIATURE", tmp_path / "miniature")
    with pytest.raises(UserError, match=r"python -m tools\.miniature"):
        choose_base("auto", None, "cpu")
    own = tmp_path / "miniature" / "adapter"
    own.mkdir(parents=True)
    (tmp_path / "miniature" / "model_index.json").touch()
    base, _, why = choose_base("auto", None, "cpu")
    assert base == str(tmp_path / "miniature") and why == "no GPU found"
    assert choose_adapter("auto", None, base) == (str(own), None)
    assert choose_adapter("none", None, base) == (None, None)


def test_variables_say_what_auto_is_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("base", "base_revision", "adapter", "adapter_revision"):
        monkeypatch.setenv(names.ENVIRONMENT[what], f"me/{what}")
    assert choose_base("auto", None, "cpu") == ("me/base", "me/base_revision", "as IMPRESSIONISM_BASE says")
    assert choose_base("you/base", None, "cpu")[:2] == ("you/base", None)
    assert choose_adapter("auto", None, "me/base") == ("me/adapter", "me/adapter_revision")
    assert choose_adapter("auto", "v3", "me/base") == ("me/adapter", "v3")
    assert choose_adapter("you/adapter", None, "me/base") == ("you/adapter", None)


def test_the_environment_reaches_the_painter(
    tiny_flux: Path, tiny_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPRESSIONISM_BASE", str(tiny_flux))
    monkeypatch.setenv("IMPRESSIONISM_ADAPTER", str(tiny_adapter))
    painter = load_pipeline(device="cpu")
    assert painter.provenance.adapter == tiny_adapter.parent.name and painter.is_miniature
    assert painter.about == (
        f"Running flux with the adapter {tiny_adapter.parent.name} (as IMPRESSIONISM_BASE says; float32 on cpu)."
    )


@pytest.mark.parametrize(("free", "expected"), [(48, "none"), (30, "int8"), (16, "nf4"), (9, "nf4")])
def test_the_quantization_fits_the_free_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, expected: str
) -> None:
    (tmp_path / "transformer").mkdir()
    with (tmp_path / "transformer" / "weights.safetensors").open("wb") as file:
        file.truncate(int(31.4 * 2**30))  # FLUX.1-dev's size, sparse
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 2**30, 80 * 2**30))
    chosen, offload, memory = choose_quantization("auto", tmp_path, "cuda")
    assert chosen == expected and offload == (free == 9)
    assert (f"{free} GiB free" in memory) == (expected != "none")
    assert choose_quantization("int8", tmp_path, "cuda")[0] == "int8"
    assert choose_quantization("fp8", tmp_path, "cuda")[1] == (free < 0.77 * 31.4)  # T5 stays as it is
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")  # the card is emulated, its memory says nothing
    assert choose_quantization("auto", tmp_path, "cuda") == ("none", False, "")


def test_provenance_names_the_weights_by_their_content(
    tiny_flux: Path, tiny_adapter: Path, tiny_painter: Painter, tmp_path: Path
) -> None:
    twin = shutil.copytree(tiny_flux, tmp_path / "twin")
    other = load_pipeline(twin, make_tiny_adapter(tmp_path / "other", seed=9), "nf4", "cpu").provenance
    mine = tiny_painter.provenance
    assert other.base == "twin" and other.base_revision == mine.base_revision
    assert other.adapter_revision != mine.adapter_revision
    assert (mine.quantize, mine.dtype, mine.device) == ("none", "float32", "cpu")
    assert set(mine.versions) == {"torch", "diffusers", "transformers"}
    assert "bitsandbytes" in other.versions


def test_wrong_devices_and_precisions_are_refused(tiny_flux: Path) -> None:
    with pytest.raises(UserError, match="There is no device gpu"):
        load_pipeline(tiny_flux, device="gpu")
    with pytest.raises(UserError, match="There is no quantization int3"):
        load_pipeline(tiny_flux, quantize="int3", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            load_pipeline(tiny_flux, device="cuda")


# ---- The Hub


def test_names_that_are_neither_folder_nor_repository_are_refused(tiny_flux: Path) -> None:
    for name in ("nowhere", "../nowhere/at/all", "https://huggingface.co/a/b"):
        with pytest.raises(UserError, match="There is no folder"):
            load_pipeline(name, "none", device="cpu")
    for name in ("nowhere", "../nowhere/at/all", "loras/mine.safetensors"):
        with pytest.raises(UserError, match=f"There is no file or folder {name} here"):
            load_pipeline(tiny_flux, name, device="cpu")
    with pytest.raises(UserError, match="has no revision v1"):
        load_pipeline(tiny_flux, "none", device="cpu", model_revision="v1")
    with pytest.raises(UserError, match="holds no FluxPipeline"):
        load_pipeline(Path(__file__).parent, "none", device="cpu")


def test_a_base_that_was_asked_for_ignores_the_adapter_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPRESSIONISM_ADAPTER", "me/adapter")
    assert choose_adapter("auto", None, names.BASE, base_asked=True) == (names.ADAPTER, None)
    assert choose_adapter("auto", None, names.BASE) == ("me/adapter", None)


def test_the_variable_knows_the_command_lines_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_index.json").touch()
    monkeypatch.setattr(names, "MINIATURE", tmp_path)
    monkeypatch.setenv("IMPRESSIONISM_BASE", "miniature")
    assert choose_base("auto", None, "cuda") == (str(tmp_path), None, "as IMPRESSIONISM_BASE says")
    monkeypatch.setenv("IMPRESSIONISM_ADAPTER", "none")
    assert choose_adapter("auto", None, str(tmp_path)) == (None, None)


def test_only_the_bundled_folder_is_called_the_miniature(tmp_path: Path) -> None:
    from impressionism.hub import label

    (tmp_path / "miniature" / "adapter").mkdir(parents=True)
    assert label(tmp_path / "miniature" / "adapter") == "miniature (another)"
    assert label(tmp_path / "miniature") == "miniature (another)"

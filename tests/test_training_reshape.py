"""Adapters made smaller, merged, extracted and converted, by the commands that a person types."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from tiny import make_tiny_adapter

from impressionism.lora import Update
from impressionism.lora_file import find_adapter, linears_of, read_adapter
from training import __main__ as training
from training.reshape import merge, resize


def deltas(source: Path, base: Path) -> dict[str, torch.Tensor]:
    updates = read_adapter(find_adapter(str(source), None), linears_of(base))
    return {path: update.scale * update.up.double() @ update.down.double() for path, update in updates.items()}


def test_a_truncated_update_is_the_best_of_its_rank_and_says_what_it_keeps() -> None:
    random = torch.Generator().manual_seed(0)
    update = Update(torch.randn(6, 40, generator=random), torch.randn(30, 6, generator=random), 0.5)
    whole = update.scale * update.up @ update.down
    small, energy = resize({"layer": update}, rank=2)
    u, s, vt = torch.linalg.svd(whole)
    best = u[:, :2] * s[:2] @ vt[:2]
    torch.testing.assert_close(small["layer"].up @ small["layer"].down, best, atol=1e-4, rtol=1e-4)
    assert energy == pytest.approx(float(s[:2].square().sum() / s.square().sum()), abs=1e-5)
    same, all_of_it = resize({"layer": update}, rank=9)
    torch.testing.assert_close(same["layer"].up @ same["layer"].down, whole, atol=1e-4, rtol=1e-4)
    assert all_of_it == pytest.approx(1)


def test_a_merge_is_the_weighted_sum() -> None:
    random = torch.Generator().manual_seed(0)
    one, other = (
        Update(torch.randn(2, 8, generator=random), torch.randn(8, 2, generator=random), s) for s in (1.0, 3.0)
    )
    merged = merge([{"a": one, "b": one}, {"b": other}], [0.5, 2])
    expected = 0.5 * one.up @ one.down + 2 * 3 * other.up @ other.down
    torch.testing.assert_close(merged["b"].up @ merged["b"].down, expected)
    torch.testing.assert_close(merged["a"].up @ merged["a"].down, 0.5 * one.up @ one.down)


def test_the_commands_resize_merge_and_convert(tiny_flux: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second = (make_tiny_adapter(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    run = lambda *arguments: training.main([str(part) for part in (*arguments, "--model", tiny_flux)])  # noqa: E731

    assert run("resize", first, "--rank", 2, "--out", tmp_path / "small") == 0
    said = capsys.readouterr().out
    assert "% of the update's energy kept" in said and "Its pictures differ from the larger adapter's by" in said
    size = 60_000
    assert run("resize", first, "--size", "60kB", "--out", tmp_path / "bytes") == 0
    assert 0.7 * size < (tmp_path / "bytes" / "pytorch_lora_weights.safetensors").stat().st_size <= size

    assert run("merge", first, second, "--weights", 1, 0.5, "--out", tmp_path / "both") == 0
    own, others, both = (deltas(folder, tiny_flux) for folder in (first, second, tmp_path / "both"))
    for path, delta in both.items():
        torch.testing.assert_close(delta, own[path] + 0.5 * others[path], atol=0.03, rtol=0.03)

    assert run("convert", first, "--to", "comfy", "--out", tmp_path / "converted") == 0
    [file] = (tmp_path / "converted").iterdir()
    assert any(key.startswith("lora_unet_double_blocks_0_") for key in load_file(file))
    for path, delta in deltas(file, tiny_flux).items():
        torch.testing.assert_close(delta, own[path], atol=0.03, rtol=0.03)

    capsys.readouterr()
    assert run("resize", first, "--size", "small", "--out", tmp_path / "x") == 2
    assert "such as 3MB, not small" in capsys.readouterr().err
    assert run("merge", first, second, "--weights", 1, "--out", tmp_path / "x") == 2
    assert "one number for each" in capsys.readouterr().err


def test_an_adapter_is_extracted_from_a_full_fine_tune(tiny_flux: Path, tmp_path: Path, capsys) -> None:
    tuned = FluxTransformer2DModel.from_pretrained(tiny_flux / "transformer", dtype=torch.float32)
    path, random = "transformer_blocks.0.attn.to_q", torch.Generator().manual_seed(0)
    change = torch.randn(64, 2, generator=random) @ torch.randn(2, 64, generator=random)
    tuned.get_submodule(path).weight.data += change
    tuned.save_pretrained(tmp_path / "tuned" / "transformer")
    command = [
        "extract",
        str(tmp_path / "tuned"),
        "--model",
        str(tiny_flux),
        "--rank",
        "2",
        "--out",
        str(tmp_path / "it"),
    ]
    assert training.main(command) == 0
    assert "rank 2 in 1 layers, 100.0% of the difference" in capsys.readouterr().out
    torch.testing.assert_close(deltas(tmp_path / "it", tiny_flux)[path].float(), change, atol=0.1, rtol=0.02)

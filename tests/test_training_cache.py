import random

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image
from safetensors.torch import load, load_file

from impressionism.errors import UserError
from training import __main__ as training
from training import cache, examples
from training.recipe import Data, Model, RunOptions, TrainingConfig


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures of two shapes, each with its own caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (70, 100 if index % 3 else 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture {index}")
    return folder


def recipe(tiny_flux, pictures, **data) -> TrainingConfig:
    return TrainingConfig(
        model=Model(base=str(tiny_flux), device="cpu"),
        data=Data(source=str(pictures), resolution=("64x64", "96x64"), **data),
        run=RunOptions(cache=pictures.parent / "cache"),
    )


def test_every_entry_belongs_to_its_sample_whatever_the_order(tiny_flux, pictures, monkeypatch):
    """Written in one order, read in another: each entry is what the pipeline makes of its sample."""
    read = examples.read
    wanted = recipe(tiny_flux, pictures)
    monkeypatch.setattr(examples, "read", lambda data: random.Random(1).sample(read(data), 8))
    cache.fill(wanted)
    monkeypatch.setattr(examples, "read", lambda data: random.Random(2).sample(read(data), 8))
    kept, usable = cache.fill(wanted)
    pipe = FluxPipeline.from_pretrained(tiny_flux, dtype=torch.float32)
    for example in usable:
        picture = examples.decode(example)
        pixels = pipe.image_processor.preprocess(picture)
        with torch.no_grad():
            expected = pipe.vae.encode(pixels).latent_dist
            text, pooled, _ = pipe.encode_prompt(f"picture {example.name[0]}", None, max_sequence_length=32)
        mean, logvar = kept.moments(example)
        torch.testing.assert_close(mean, expected.mean[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logvar, expected.logvar[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept.text(example.caption)[0], text[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept.text(example.caption)[1], pooled[0], atol=1e-4, rtol=1e-4)


def test_only_what_is_missing_is_made(tiny_flux, pictures, capsys):
    kept, usable = cache.fill(recipe(tiny_flux, pictures))
    files = {path: path.stat().st_mtime_ns for path in kept.folder.rglob("*.safetensors")}
    assert len(files) == 8 + 9 and "8 pictures and 9 captions, encoded now" in capsys.readouterr().err
    lost = kept.latents_file(usable[0])
    lost.unlink()
    (pictures / "3.txt").write_text("another caption")
    cache.fill(recipe(tiny_flux, pictures))
    now = {path: path.stat().st_mtime_ns for path in kept.folder.rglob("*.safetensors")}
    assert {path for path in now if now[path] != files.get(path)} == {lost, kept.text_file("another caption")}
    capsys.readouterr()
    cache.fill(recipe(tiny_flux, pictures))
    assert "all there already" in capsys.readouterr().err


def test_another_encoder_is_another_cache(tiny_flux, pictures):
    model = recipe(tiny_flux, pictures).model
    other = model.model_copy(update={"max_sequence_length": 16})
    assert cache.fingerprint(model, tiny_flux, torch.float32) != cache.fingerprint(other, tiny_flux, torch.float32)
    with pytest.raises(UserError, match="is no FLUX model: it lacks vae"):
        cache.fingerprint(model, pictures, torch.float32)


def test_a_truncated_picture_is_skipped(tiny_flux, pictures, capsys):
    whole = (pictures / "1.png").read_bytes()
    (pictures / "1.png").write_bytes(whole[: len(whole) // 2])
    _, usable = cache.fill(recipe(tiny_flux, pictures))
    assert len(usable) == 7 and "Skipped 1.png: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "flipped", "header", "empty"])
def test_a_damaged_entry_is_noticed_and_made_again(tiny_flux, pictures, capsys, damage):
    wanted = recipe(tiny_flux, pictures)
    kept, usable = cache.fill(wanted)
    for file in (kept.latents_file(usable[0]), kept.text_file(usable[1].caption)):
        whole = file.read_bytes()
        place = 40 if damage == "header" else len(whole) - 1200
        flipped = whole[:place] + bytes(byte ^ 0xFF for byte in whole[place : place + 1000]) + whole[place + 1000 :]
        file.write_bytes({"cut": whole[:100], "empty": b""}.get(damage, flipped))
        path = pictures.parent / "recipe.yaml"
        path.write_text(wanted.to_yaml())
        assert training.main(["cache", str(path)]) == 0
        assert f"Damaged in the cache and made again: {file}." in capsys.readouterr().err
        torch.testing.assert_close(load_file(file), load(whole), atol=1e-5, rtol=1e-5)


def test_a_cache_that_cannot_be_written_is_one_sentence(tiny_flux, pictures, capsys):
    (pictures.parent / "file").write_text("not a folder")
    path = pictures.parent / "recipe.yaml"
    path.write_text(recipe(tiny_flux, pictures).to_yaml())
    assert training.main(["cache", str(path), f"run.cache={pictures.parent}/file/cache"]) == 2
    assert "cannot be written, because a part of its path is a file" in capsys.readouterr().err.splitlines()[-1]

"""Painting: strength 0 is the base bit for bit, no call leaves a trace, and a picture carries its recipe."""

import dataclasses
import io
import itertools
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file
from tiny import make_tiny_adapter

from impressionism import __main__ as terminal
from impressionism import names
from impressionism.errors import UserError
from impressionism.files import cover
from impressionism.names import WEIGHTS_FILE
from impressionism.paint import (
    REMEMBERED,
    again,
    check,
    compare,
    cut_at,
    defaults,
    encode,
    paint,
    paint_all,
    read_recipe,
    request,
    save,
    shaped_like,
    sweep,
    unknown_words,
)
from impressionism.pipeline import Painter, load_adapter, load_pipeline
from impressionism.records import BlockStrengths, GenerationParams, ImageMetadata

BOAT = GenerationParams(prompt="a sailing boat on the sea at dawn", seed=7, steps=4, width=64, height=64)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


@pytest.fixture
def photograph() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# ---- Strength


@pytest.mark.parametrize("quantize", ["none", "int8", "nf4"])
def test_strength_zero_is_the_base_model_bit_for_bit(tiny_flux: Path, tiny_adapter: Path, quantize: str) -> None:
    painter = load_pipeline(tiny_flux, "none", quantize, "cpu")
    bare = paint(painter, BOAT)
    load_adapter(painter.pipe, tiny_adapter / WEIGHTS_FILE)
    assert same(bare, paint(painter, BOAT, 0.0))
    assert not same(bare, paint(painter, BOAT, 1.0))


def test_more_strength_is_further_from_the_base(tiny_painter: Painter) -> None:
    one_step = dataclasses.replace(BOAT, steps=1)
    base, *rest = [picture for _, picture in sweep(tiny_painter, one_step, [0, 0.02, 0.05, 0.1, 0.2])]
    distances = [distance(base, picture) for picture in rest]
    assert distances == sorted(distances) and distances[0] > 0


def test_no_call_leaves_a_trace_not_even_a_cancelled_one(tiny_painter: Painter, photograph: Image.Image) -> None:
    expected = paint(tiny_painter, BOAT, 0.3)

    class Cancelled(Exception):
        pass

    def cancel(step: int, steps: int, latents: object) -> None:
        if step == 2:
            raise Cancelled

    for strength in (0.0, 1.2):
        with pytest.raises(Cancelled):
            paint(tiny_painter, BOAT, strength, on_step=cancel)
        assert same(paint(tiny_painter, BOAT, 0.3), expected)
    with pytest.raises(Cancelled):
        paint(tiny_painter, BOAT, 1.2, source=photograph, change=1.0, on_step=cancel)
    assert same(paint(tiny_painter, BOAT, 0.3), expected)
    tiny_painter.pipe._interrupt = True
    next(sweep(tiny_painter, dataclasses.replace(BOAT, prompt="a haystack", steps=9), [0.0, 1.2]))
    assert same(paint(tiny_painter, BOAT, 0.3), expected)


def test_every_input_changes_the_picture(tiny_painter: Painter) -> None:
    expected = paint(tiny_painter, BOAT)
    for change in ({"prompt": "a haystack"}, {"seed": 8}, {"steps": 5}, {"guidance": 1.0}):
        assert not same(paint(tiny_painter, dataclasses.replace(BOAT, **change)), expected), change
    assert paint(tiny_painter, dataclasses.replace(BOAT, width=96, height=80)).size == (96, 80)


# ---- Pairs, rows and repaints


def test_a_prompt_is_encoded_once_while_it_is_remembered(tiny_painter: Painter) -> None:
    asked = []
    hook = tiny_painter.pipe.text_encoder_2.register_forward_hook(lambda *_: asked.append(True))
    first = encode(tiny_painter, "a first boat")
    for number in range(REMEMBERED - 1):
        encode(tiny_painter, f"boat {number}")
    assert encode(tiny_painter, "a first boat") is first
    assert len(asked) == REMEMBERED
    encode(tiny_painter, "one more boat")  # the first is forgotten
    again = encode(tiny_painter, "a first boat")
    hook.remove()
    assert len(asked) == REMEMBERED + 2
    assert all(torch.equal(one, other) for one, other in zip(again, first, strict=True))


def test_a_comparison_is_two_paintings_with_one_count_of_steps(tiny_painter: Painter) -> None:
    seen = []
    base, adapted = compare(tiny_painter, BOAT, 0.8, on_step=lambda step, steps, _: seen.append((step, steps)))
    assert same(base, paint(tiny_painter, BOAT, 0.0)) and same(adapted, paint(tiny_painter, BOAT, 0.8))
    assert seen == [(step, 8) for step in range(1, 9)]


def test_a_sweep_gives_each_picture_as_it_is_done(tiny_painter: Painter) -> None:
    seen: list[int] = []
    pictures = sweep(tiny_painter, BOAT, (0, 0.5, 1), on_step=lambda step, *_: seen.append(step))
    strength, first = next(pictures)
    assert strength == 0 and len(seen) == BOAT.steps
    rest = dict(pictures)
    assert list(rest) == [0.5, 1] and same(rest[1], paint(tiny_painter, BOAT, 1.0)) and not same(first, rest[1])
    with pytest.raises(UserError, match="at least one"):
        sweep(tiny_painter, BOAT, [])


def test_a_repaint_has_the_size_asked_for_and_changes_as_much_as_asked(
    tiny_painter: Painter, photograph: Image.Image
) -> None:
    wide = dataclasses.replace(BOAT, width=96, height=64, steps=8)
    seen = []
    little = paint(tiny_painter, wide, 1.0, source=photograph, change=0.4, on_step=lambda *step: seen.append(step[:2]))
    assert tiny_painter.pipe.scheduler.sigmas[0] == pytest.approx(0.4)  # the share of noise at the start
    much = paint(tiny_painter, wide, 1.0, source=photograph, change=1.0)
    assert little.size == much.size == (96, 64) and not same(little, much)
    assert seen == [(1, 2), (2, 2)]
    assert same(little, paint(tiny_painter, wide, 1.0, source=photograph, change=0.4))
    assert not same(much, paint(tiny_painter, wide, 0.0, source=photograph, change=1.0))
    unprompted = paint(tiny_painter, wide.replace(prompt=""), 1.0, source=photograph)
    assert not same(unprompted, little)  # 0.3 where no other change is asked for
    cropped = cover(photograph, 96, 64)
    assert distance(unprompted, cropped) < distance(much, cropped)


def test_a_source_is_read_as_every_picture_and_filled(tiny_painter: Painter) -> None:
    turned = Image.new("RGBA", (40, 20), (255, 0, 0, 0))  # clear on its right, which the camera's turn makes the bottom
    turned.paste("blue", (0, 0, 20, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    source = request(tiny_painter, BOAT.replace(width=64, height=128), 1.0, source=Image.open(file)).source
    assert source.mode == "RGB" and source.size == (64, 128)
    assert source.getpixel((32, 8)) == (0, 0, 255) and source.getpixel((32, 120)) == (255, 255, 255)


# ---- Several adapters, fast mode and block groups


@pytest.fixture(scope="module")
def rich(tiny_flux: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Painter:
    """A model that knows two sizes, with two adapters and an accelerator."""
    folder = shutil.copytree(tiny_flux, tmp_path_factory.mktemp("rich") / "flux")
    (folder / "sizes.json").write_text("[[64, 64], [64, 48]]")
    accelerator = make_tiny_adapter(folder / "accelerator", rank=2, seed=5) / WEIGHTS_FILE
    facts = {"modelspec.recommended_strength": "0.5", "impressionism.steps": "2", "impressionism.guidance": "1.5"}
    save_file(load_file(accelerator), accelerator, facts)
    other = make_tiny_adapter(folder.parent / "other", seed=6) / WEIGHTS_FILE
    said = {"modelspec.title": "Haystacks", "modelspec.trigger_phrase": "by mntp", "modelspec.usage_hint":
            "Strength 0.75, useful from 0.5 to 1.25; 0 is the base model."}  # fmt: skip
    save_file(load_file(other), other, said)
    return load_pipeline(folder, [tiny_adapter, other], device="cpu")


SQUARE = BOAT.replace(steps=2)


def test_adapters_say_what_they_are_and_paint_each_as_alone(rich: Painter, tiny_painter: Painter) -> None:
    first, other = rich.adapters.values()
    assert rich.adapter is first and first.recommended_strength == 1.0
    assert (other.title, other.trigger, other.recommended_strength) == ("Haystacks", "by mntp", 0.75)
    assert same(paint(rich, SQUARE), paint(tiny_painter, SQUARE, 1.0))  # no strength: the recommended one
    assert request(rich, SQUARE, adapter="other").metadata.strength == 0.75
    alone = load_pipeline(Path(tiny_painter.pipe.name_or_path), rich_file(rich, "other"), device="cpu")
    assert same(paint(rich, SQUARE, 0.6, adapter="other"), paint(alone, SQUARE, 0.6))
    assert request(rich, SQUARE, adapter="other").metadata.provenance.adapter_revision == other.revision
    with pytest.raises(UserError, match="There is no adapter mine here; there is tiny"):
        paint(rich, SQUARE, adapter="mine")


def test_fast_mode_puts_the_accelerator_on_both_sides(rich: Painter, tiny_painter: Painter) -> None:
    base, adapted = compare(rich, SQUARE, 0.8, fast=True)
    plain, _ = compare(rich, SQUARE, 0.8)
    assert not same(base, plain) and not same(adapted, base) and same(plain, paint(tiny_painter, SQUARE, 0.0))
    assert (defaults(rich, "a boat", fast=True).steps, defaults(rich, "a boat", fast=True).guidance) == (2, 1.5)
    alone = load_pipeline(Path(tiny_painter.pipe.name_or_path), rich_file(rich, "flux/accelerator"), device="cpu")
    assert same(base, paint(alone, SQUARE, 0.5))  # at style strength 0, the base with the accelerator, bit for bit
    recipe = request(rich, SQUARE, fast=True).metadata
    assert recipe.fast and recipe.provenance.accelerator_revision == rich.accelerator.revision
    assert not request(rich, SQUARE).metadata.provenance.accelerator
    assert ImageMetadata.from_json(recipe.to_json()) == recipe
    with pytest.raises(UserError, match="Fast mode needs an accelerator, and none is loaded here"):
        paint(tiny_painter, SQUARE, fast=True)


def rich_file(painter: Painter, name: str) -> Path:
    return Path(painter.pipe.name_or_path).parent / name / WEIGHTS_FILE


def test_block_strengths_multiply_and_are_recorded(rich: Painter) -> None:
    pictures = [paint(rich, SQUARE, 0.8, blocks=BlockStrengths(**{group: 0})) for group in BlockStrengths().to_dict()]
    pictures += [paint(rich, SQUARE, 0.8)]
    assert len({picture.tobytes() for picture in pictures}) == 4
    half = BlockStrengths(two_stream=0.5, early_single=0.5, late_single=0.5)
    assert same(paint(rich, SQUARE, 0.8, blocks=half), paint(rich, SQUARE, 0.4))
    recipe = request(rich, SQUARE, blocks=half).metadata
    assert ImageMetadata.from_json(recipe.to_json()).blocks == half
    assert request(rich, SQUARE, blocks=BlockStrengths()).metadata == request(rich, SQUARE).metadata
    assert same(next(paint_all(rich, [again(rich, recipe)])), paint(rich, SQUARE, blocks=half))
    with pytest.raises(UserError, match=r"Blocks\.two_stream must be a number from 0 to 2, not 3"):
        paint(rich, SQUARE, blocks=BlockStrengths(two_stream=3))


def test_an_upscaled_picture_is_twice_as_large_painted_in_tiles_and_close_to_what_it_was(rich: Painter) -> None:
    picture, seen = paint(rich, SQUARE, 0.8), []
    large = paint(
        rich, SQUARE, 0.8, source=picture, change=0.1, upscale=True, on_step=lambda *step: seen.append(step[:2])
    )
    assert large.size == (128, 128) and seen == [(step, 9) for step in range(1, 10)]  # 3 x 3 tiles, a step each
    enlarged = picture.resize((128, 128), Image.Resampling.LANCZOS)
    anew = paint(rich, SQUARE, 0.8, source=picture, change=1.0, upscale=True)
    assert 0 < distance(large, enlarged) < distance(anew, enlarged)
    wanted = request(rich, SQUARE, 0.8, source=picture, change=0.1, upscale=True)
    assert wanted.metadata.upscale and wanted.metadata.sampling.width == 128
    assert same(next(paint_all(rich, [again(rich, wanted.metadata, picture)])), large)


def test_a_model_that_knows_few_sizes_names_the_nearest(rich: Painter) -> None:
    assert rich.sizes == ((64, 64), (64, 48)) and defaults(rich, "a boat").width == 64
    with pytest.raises(UserError, match="This model knows the sizes 64 x 64, 64 x 48: take 64 x 48, not 128 x 80"):
        paint(rich, SQUARE.replace(width=128, height=80))


def test_what_the_text_encoder_does_not_read_is_told(tiny_painter: Painter) -> None:
    assert cut_at(tiny_painter, "a boat") is None
    assert cut_at(tiny_painter, "a boat on the sea at dawn, and much more") == "much more"


def test_the_miniature_names_the_words_that_it_was_not_taught() -> None:
    painter = load_pipeline("miniature", "none", device="cpu")
    assert unknown_words(painter, "A boat, a cat on 3 bicycles in Paris") == ["cat", "bicycles", "Paris"]
    assert cut_at(painter, "a boat " * 40) and not cut_at(painter, "a boat")


def test_four_fast_steps_of_the_miniature_paint_what_twenty_do() -> None:
    painter = load_pipeline("miniature", device="cpu")
    ways: dict[tuple[float, bool], float] = dict.fromkeys(itertools.product((0.0, 1.0), (False, True)), 0.0)
    for subject, light in zip(names.SUBJECTS[::4], names.LIGHTS, strict=False):
        full, fast = (defaults(painter, f"{subject} {light}", few) for few in (False, True))
        assert (full.steps, fast.steps) == (20, 4)
        for strength, aided in ways:
            ways[strength, aided] += distance(
                paint(painter, full, strength), paint(painter, fast, strength, fast=aided)
            )
    assert ways[1.0, True] < 0.8 * ways[1.0, False]  # four unaided steps leave the strokes out
    assert ways[0.0, True] < ways[0.0, False]


# ---- What may be asked


def test_everything_wrong_is_said_at_once() -> None:
    wrong = GenerationParams(prompt="a boat " * 300, seed=-1, steps=0, guidance=float("nan"), width=100, height=4096)
    with pytest.raises(UserError) as caught:
        check(wrong, float("inf"), change=0.0)
    for word in ("prompt", "seed", "steps", "guidance", "width", "height", "strength", "change"):
        assert word in str(caught.value).lower(), word


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "x" * 2001}, {"prompt": None}, {"seed": True}, {"seed": 2**31}, {"seed": 1.0},
        {"steps": 101}, {"steps": "20"}, {"guidance": 20.1}, {"guidance": None},
        {"width": 63}, {"width": 64.0}, {"height": 2064},
    ],
)  # fmt: skip
def test_each_limit_is_kept(change: dict) -> None:
    check(BOAT)
    with pytest.raises(UserError):
        check(dataclasses.replace(BOAT, **change))


def test_strength_and_change_have_limits_and_the_miniature_a_smaller_side(
    tiny_painter: Painter, photograph: Image.Image
) -> None:
    for strength in (-1, 2, 0.5):
        check(BOAT, strength)
    for strength in (-1.1, 2.1, float("nan"), True, "1", None):
        with pytest.raises(UserError, match=r"[Ss]trength"):
            check(BOAT, strength)
    for change in (0, -0.1, 1.1, float("nan"), True):
        with pytest.raises(UserError, match=r"[Cc]hange"):
            paint(tiny_painter, BOAT, 1.0, source=photograph, change=change)
    check(dataclasses.replace(BOAT, width=2048))
    with pytest.raises(UserError, match="from 64 to 512"):
        paint(tiny_painter, dataclasses.replace(BOAT, width=2048))


def test_the_defaults_suit_the_model(tiny_painter: Painter) -> None:
    assert defaults(tiny_painter, "a haystack") == GenerationParams(prompt="a haystack", steps=20, width=64, height=64)


# ---- The recipe


def test_a_png_carries_its_recipe(tiny_painter: Painter, tmp_path: Path) -> None:
    sampling = dataclasses.replace(BOAT, prompt="Mühle “am” Fluss 🌊\nat dusk")
    recipe = request(tiny_painter, sampling, 0.8).metadata
    picture = paint(tiny_painter, sampling, 0.8)
    file = save(picture, recipe, tmp_path / "new" / "boat.png")
    assert read_recipe(file) == read_recipe(Image.open(file)) == recipe
    assert same(Image.open(file), picture)
    text = Image.open(file).info
    assert "Strength: 0.8, Seed: 7" in text["parameters"] and "AI-generated" in text["Comment"]
    assert str(tmp_path) not in recipe.to_json()
    assert recipe.provenance.adapter_revision and recipe.provenance.versions["torch"]


def test_a_picture_without_a_good_recipe_says_so(tmp_path: Path, tiny_painter: Painter) -> None:
    plain = Image.new("RGB", (64, 64))
    plain.save(tmp_path / "plain.png")
    with pytest.raises(UserError, match="carries no recipe"):
        read_recipe(tmp_path / "plain.png")
    for damaged in ("{", "[]", "{}", '{"sampling": 1, "provenance": {}}'):
        plain.info = {"impressionism": damaged}
        with pytest.raises(UserError, match="is damaged"):
            read_recipe(plain)
    with pytest.raises(UserError, match="There is no file"):
        read_recipe(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_recipe(tmp_path / "text.png")
    with pytest.raises(UserError, match="cannot carry a recipe"):
        save(plain, request(tiny_painter, BOAT, 1.0).metadata, tmp_path / "boat.jpg")


# ---- The terminal


@pytest.fixture
def run(tiny_flux: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    where = ["--model", str(tiny_flux), "--adapter", str(tiny_adapter), "--device", "cpu"]
    return lambda *arguments: terminal.main([*map(str, arguments), *where])


def test_a_picture_is_painted_again_identically(run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("a boat", "--strength", 0.7, "--seed", 7, "--steps", 3, "--out", "boat.png") == 0
    assert run("--from", "boat.png", "--out", "again.png") == 0
    assert Path("boat.png").read_bytes() == Path("again.png").read_bytes()
    said = capsys.readouterr().err
    assert "come out different" not in said and "Loading" not in said


def test_other_weights_and_versions_are_said(run, tiny_painter: Painter, capsys: pytest.CaptureFixture) -> None:
    recipe = request(tiny_painter, BOAT, 1.0).metadata
    other = dataclasses.replace(recipe.provenance, adapter_revision="0" * 16, versions={"torch": "1.0"})
    save(paint(tiny_painter, BOAT), dataclasses.replace(recipe, provenance=other), Path("boat.png"))
    assert run("--from", "boat.png", "--out", "again.png") == 0
    said = capsys.readouterr().err
    assert "may come out different: the adapter's weights was 0000" in said and "torch was 1.0, is" in said


def test_pairs_rows_and_repaints_from_the_terminal(run, photograph: Image.Image, capsys: pytest.CaptureFixture) -> None:
    size = ("--steps", 2, "--width", 64, "--height", 80)
    assert run("a boat", *size, "--compare", "--out", "pair/boat.png") == 0
    assert read_recipe("pair/boat-base.png").strength == 0 and read_recipe("pair/boat.png").strength == 1
    assert run("a boat", *size, "--sweep", 0, 0.5, "--out", "row.png") == 0
    assert read_recipe("row-0.png").strength == 0 and read_recipe("row-0.5.png").strength == 0.5
    photograph.save("photo.jpg")
    assert run("a boat", *size, "--repaint", "photo.jpg", "--change", 0.5, "--out", "over.png") == 0
    assert read_recipe("over.png").change == 0.5
    assert run("--from", "over.png", "--out", "again.png") == 2  # it needs the photograph
    assert run("--from", "over.png", "--repaint", "photo.jpg", "--out", "again.png") == 0
    assert Path("over.png").read_bytes() == Path("again.png").read_bytes()
    assert run("a boat", *size, "--seeds", 2, "--seed", 7, "--blocks", 1, 1, 0.5, "--out", "each.png") == 0
    assert read_recipe("each-8.png").blocks == BlockStrengths(late_single=0.5)
    assert run("a boat", "--steps", 2, "--upscale", "over.png", "--out", "large.png") == 0
    assert Image.open("large.png").size == (128, 160)
    said = capsys.readouterr().err
    assert "step 2 of 4\nstep 3 of 4\nstep 4 of 4" in said  # two pictures; in a log, a line for each quarter


def test_a_photograph_is_repainted_in_its_own_shape(tiny_painter: Painter):
    params = defaults(tiny_painter, "a boat").replace(width=192, height=192)
    wide = shaped_like(tiny_painter, params, Image.new("RGB", (900, 600)))
    assert wide.width % 16 == wide.height % 16 == 0 and abs(wide.width / wide.height - 1.5) < 0.2
    known = dataclasses.replace(tiny_painter, sizes=((192, 192), (192, 144), (144, 192)))
    sides = [(one.width, one.height) for size in ((900, 600), (600, 900), (500, 510))
             for one in [shaped_like(known, params, Image.new("RGB", size))]]  # fmt: skip
    assert sides == [(192, 144), (144, 192), (192, 192)]


def test_a_photograph_is_painted_over_alike_however_its_file_holds_it(run, capsys: pytest.CaptureFixture) -> None:
    grey = np.asarray(Image.effect_noise((96, 64), 60))
    upright = Image.fromarray(grey).convert("RGB")
    upright.save("upright.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save("sixteen.png")
    upright.convert("RGBA").save("alpha.webp", lossless=True)
    # as phones write it: turned, and with the exposure bias -2/0
    main = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 38) + bytes(4)
    inner = struct.pack("<HHHII", 1, 0x9204, 10, 1, 56) + bytes(4) + struct.pack("<ii", -2, 0)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save("phone.png", exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + main + inner)
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("workflow", "x" * 2_000_000, zip=True)  # other programs' text
    upright.save("workflow.png", pnginfo=metadata)
    size = ("--steps", 1, "--width", 96, "--height", 64, "--change", 1)
    painted = []
    for name in ("upright.png", "sixteen.png", "alpha.webp", "phone.png", "workflow.png"):
        assert run("a boat", *size, "--repaint", name, "--out", "over.png") == 0, name
        painted.append(Path("over.png").read_bytes())
    assert painted == painted[:1] * 5
    Path("damaged.avif").write_bytes(bytes(8) + b"avif" + bytes(99))
    Path("text.png").write_text("no picture")
    Image.new("RGB", (3, 2000)).save("strip.png")
    os.mkfifo("pipe.png")
    capsys.readouterr()
    for name in ("damaged.avif", "text.png", "strip.png", "pipe.png"):
        assert run("a boat", "--repaint", name) == 2
        said = capsys.readouterr().err
        assert name in said and said.count("\n") == 1, said


def test_adapters_as_other_programs_leave_them_paint_or_are_refused(
    run, tiny_flux: Path, tiny_adapter: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = load_file(tiny_adapter / WEIGHTS_FILE)
    expected = load_pipeline(tiny_flux, tiny_adapter, device="cpu")

    def painted(changed: dict, **metadata: str) -> int:
        save_file({key: tensor.contiguous() for key, tensor in changed.items()}, "theirs.safetensors", metadata)
        command = ["a boat", "--steps", "1", "--model", str(tiny_flux), "--adapter", "theirs.safetensors"]
        return terminal.main([*command, "--strength", "0.8", "--device", "cpu"])

    def renamed(change: Callable[[str], str]) -> dict:
        return {change(key): tensor for key, tensor in weights.items()}

    one_step = GenerationParams(prompt="a boat", steps=1, width=64, height=64)
    for layout in (
        renamed(lambda key: key.replace("transformer.", "transformer._orig_mod.", 1)),
        renamed(lambda key: f"lora_transformer_{key.removeprefix('transformer.').split('.lora_')[0].replace('.', '_')}"
                f".lora_{'down' if '_A.' in key else 'up'}.weight"),
    ):  # fmt: skip
        assert painted(layout) == 0
        assert same(Image.open("picture.png"), paint(expected, one_step, 0.8))
    capsys.readouterr()
    for changed, metadata, sentence in (
        ({key: tensor * torch.nan for key, tensor in weights.items()}, {}, "holds numbers that are not finite"),
        ({key: tensor.to(torch.int8) for key, tensor in weights.items()}, {}, "holds whole numbers"),
        (weights, {"lora_adapter_metadata": '{"transformer.lora_alpha": 1e400}'}, "alpha is 'inf' and no number"),
        (renamed(lambda key: f"{key.removeprefix('transformer.')}"), {"modelspec.architecture": "sdxl"}, ""),
    ):
        assert painted(changed, **metadata) == (2 if sentence else 0)
        said = capsys.readouterr().err.strip().splitlines()
        assert not sentence or (said[-1].startswith("theirs.safetensors ") and sentence in said[-1]), said
    for missing in ("./nope", "loras/mine.safetensors"):
        assert terminal.main(["a boat", "--model", str(tiny_flux), "--adapter", missing, "--device", "cpu"]) == 2
        assert capsys.readouterr().err.startswith(f"There is no file or folder {missing} here")


def test_words_that_the_model_does_not_read_are_told(run, capsys: pytest.CaptureFixture) -> None:
    assert run("a boat on the sea at dawn, and much more", "--steps", 1) == 0
    assert "the model ignores everything from “much more” on." in capsys.readouterr().err
    command = ["a cat on a bicycle in Paris", "--model", "miniature", "--steps", "1", "--device", "cpu", "--compare"]
    assert terminal.main(command) == 0
    said = capsys.readouterr().err
    assert "The miniature does not know: cat, bicycle, Paris. It knows a sailing boat on the sea, " in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say what to paint"),
        (["a boat", "--steps", 0], "Steps must be a whole number from 1 to 100, not 0."),
        (["a boat", "--change", 0.5], "name the picture with --repaint"),
        (["a boat", "--repaint", "none.jpg"], "There is no file none.jpg."),
        (["a boat", "--out", "boat.jpg"], "name the picture something.png"),
        (["a boat", "--from", "boat.png"], "leave out the prompt"),
        (["--seed", 0, "--from", "boat.png"], "leave out --seed"),
        (["--from", "boat.png"], "There is no file boat.png."),
        (["a boat", "--seeds", 9], "--seeds must be from 1 to 4, not 9."),
        (["a boat", "--blocks", 1, 1, 3], "Blocks.late_single must be a number from 0 to 2"),
        (["a boat", "--fast"], "There is no accelerator for"),
    ],
)
def test_a_wrong_command_is_one_sentence(run, arguments: list, sentence: str, capsys: pytest.CaptureFixture) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert sentence in said[-1] and "Traceback" not in "".join(said)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a boat", "--strength", 7], "Strength must be a number from -1 to 2"),
        (["a boat", "--sweep", 0, 7], "Strength must be a number from -1 to 2"),
        (["a boat", "--sweep", 0, 1, "--strength", 1], "leave out --strength"),
        (["a boat", "--width", 100], "Width must be a multiple of 16"),
        (["a boat", "--adapter", "nowhere"], "There is no file or folder nowhere here"),
        (["a boat", "--adapter", ".", "--adapter-revision", "v2"], "has no revision v2"),
        (["a boat", "--quantize", "int3"], "There is no quantization int3"),
        (["a boat", "--repaint", "boat.png"], "There is no file boat.png"),
        (["a boat", "--repaint", "photo.png", "--change", 0], "Change must be above 0"),
        (["a boat", "--out", "file/boat.png"], "file/boat.png cannot be written"),
    ],
)
def test_what_is_wrong_is_said_before_the_base_is_loaded(
    arguments: list, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The model is an empty folder, which is told as soon as it is opened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flux").mkdir()
    (tmp_path / "file").touch()
    assert terminal.main([*map(str, arguments), "--model", "flux", "--device", "cpu"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_recipe_from_an_unknown_folder_asks_where_it_is(
    tiny_painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Image.new("RGB", (64, 64)), request(tiny_painter, BOAT, 1.0).metadata, "boat.png")
    assert terminal.main(["--from", "boat.png"]) == 2
    assert "say where it is with --model" in capsys.readouterr().err

"""A run of the tiny FLUX, really trained and painted, with scores written by hand: for the tests of the card."""

import itertools
import json
from pathlib import Path

import yaml
from PIL import Image

from impressionism import names
from impressionism.paint import request, save, sweep
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import (
    Arm,
    AtStrength,
    Estimate,
    Exhibit,
    GenerationParams,
    ImageMetadata,
    Metric,
    Pair,
    Scores,
)
from training import __main__ as training

PROMPTS = {"lilies": ("landscape", "water lilies | on a pond"), "bridge": ("urban", "a <stone> bridge")}
SEEDS = (1001, 1002)
STRENGTHS = (0.5, 1.0, 1.5)
STEPS = 2


def make_run(folder: Path, tiny_flux: Path) -> Path:
    """Trains, paints and scores; returns the run's folder, called lilies."""
    run = folder / "runs" / "lilies"
    train(folder, run, tiny_flux)
    painter = load_pipeline(str(tiny_flux), str(run / "adapter"), device="cpu")
    exhibits = paint_gallery(run / "gallery", painter)
    write_showcase(run / "gallery", exhibits)
    (run / "scores.json").write_text(scores_of(painter, exhibits).to_json())
    return run


def train(folder: Path, run: Path, tiny_flux: Path) -> None:
    pictures = folder / "paintings"
    pictures.mkdir(parents=True)
    for index in range(6):
        Image.new("RGB", (64, 64), (40 * index, 90, 200 - 30 * index)).save(pictures / f"{index}.png")
    lines = [json.dumps({"file_name": f"{index}.png", "text": f"a ball, {index}"}) for index in range(6)]
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    recipe = {
        "model": {"base": str(tiny_flux), "quantize": "nf4", "device": "cpu"},
        "data": {"source": str(pictures), "resolution": 64, "held_out": 0.3},
        "adapter": {"rank": 4, "targets": "all"},
        "optimizer": {"steps": 4, "batch": 2, "rate": 0.02},
        "run": {"folder": str(run), "cache": str(folder / "cache"), "log_every": 1, "validate_every": 2},
    }
    (folder / "lilies.yaml").write_text(yaml.safe_dump(recipe))
    assert training.main(["fit", str(folder / "lilies.yaml")]) == 0


def paint_gallery(folder: Path, painter: Painter) -> list[Exhibit]:
    """Four arms and three strengths of each prompt and seed, as `evaluation gallery` paints them."""
    exhibits = []
    for (prompt, (genre, text)), seed in itertools.product(PROMPTS.items(), SEEDS):
        for kind, words, strengths in (
            ("", text, (0.0, *STRENGTHS)),
            ("-styled", f"{names.TRIGGER} {text}", (0.0, 1.0)),
        ):
            sampling = GenerationParams(prompt=words, seed=seed, steps=STEPS, width=64, height=64)
            for strength, picture in sweep(painter, sampling, strengths):
                arm: Arm = ("adapter" if strength else "base") + kind  # type: ignore[assignment]
                recipe = request(painter, sampling, strength).metadata
                exhibits.append(Exhibit(file=f"{prompt}/{seed}-{arm}-{strength:g}.png", prompt=prompt, genre=genre,
                                        arm=arm, recipe=recipe))  # fmt: skip
                save(picture, recipe, folder / exhibits[-1].file)
    (folder / "gallery.jsonl").write_text("".join(exhibit.to_json() + "\n" for exhibit in exhibits))
    return exhibits


def adapted(exhibits: list[Exhibit]) -> list[Exhibit]:
    return [exhibit for exhibit in exhibits if exhibit.arm == "adapter" and exhibit.recipe.strength == 1.0]


def write_showcase(gallery: Path, exhibits: list[Exhibit]) -> None:
    pairs = [pair_of(exhibit.recipe, exhibit.genre, seed) for exhibit, seed in zip(adapted(exhibits), SEEDS * 2)]  # noqa: B905
    (gallery / "showcase").mkdir()
    (gallery / "showcase" / "showcase.jsonl").write_text("".join(pair.to_json() + "\n" for pair in pairs))


def pair_of(recipe: ImageMetadata, genre: str, seed: int) -> Pair:
    chosen, gain = ("best", 0.31) if seed == SEEDS[0] else ("worst", -0.07)
    return Pair(base="base.webp", adapted="adapted.webp", genre=genre, chosen=chosen, gain=gain, recipe=recipe)


def estimate(value: float, n: int = 2) -> Estimate:
    return Estimate(value=value, low=value - 0.11, high=value + 0.13, n=n)


def scores_of(painter: Painter, exhibits: list[Exhibit]) -> Scores:
    return Scores(
        run="lilies",
        provenance=painter.provenance,
        prompt_set="ponds 1",
        prompt_set_sha256="0123456789abcdef" * 4,
        prompts=2,
        seeds=2,
        real="dolphinium/paintings at 89ab",
        metrics=[
            Metric(name="index", question="style", base=estimate(0.2), adapter=estimate(0.613), real=estimate(0.8),
                   difference=estimate(0.413), gap_closed=estimate(0.688), p=0.0004),
            Metric(name="strokes", question="style", unit="ΔE", base=estimate(0.5), adapter=estimate(0.4),
                   real=estimate(0.7), difference=estimate(-0.1), gap_closed=estimate(-0.5), p=0.2),
            Metric(name="pictorial-kid", question="style", better="lower", base=estimate(3.0), adapter=estimate(5.0),
                   difference=estimate(2.0)),
            Metric(name="composition", question="content", adapter=estimate(0.9)),
            Metric(name="clip-score", question="content", note="the weights are not on this machine"),
        ],
        curve=[
            AtStrength(strength=at, index=estimate(0.2 + 0.4 * at), content=estimate(1 - 0.1 * at))
            for at in (0.0, *STRENGTHS)
        ],
        strength=1.0,
        strength_low=0.5,
        strength_high=1.5,
        best=[exhibit.file for exhibit in adapted(exhibits) if exhibit.recipe.sampling.seed == SEEDS[0]],
        worst=[exhibit.file for exhibit in adapted(exhibits) if exhibit.recipe.sampling.seed == SEEDS[1]],
        seconds=12.0,
        machine="a test",
    )  # fmt: skip

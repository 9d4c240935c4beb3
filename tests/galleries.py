"""Galleries without a painter: drawn scenes, and what an adapter of known worth would make of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from evaluation import features
from evaluation.exhibits import write_lines
from impressionism.records import Exhibit, GenerationParams, ImageMetadata, Provenance

SIDE = 96
SEEDS = (1, 2)
GENRES = ("landscape", "urban")
STRENGTHS = (0.5, 1.0)

Painting = Callable[[np.ndarray, float, int, int], np.ndarray]
"""The base's picture, strength, prompt and seed to the adapter's picture."""


@pytest.fixture(scope="module", autouse=True)
def looked_at_once() -> Iterator[None]:
    """A picture that many galleries share is measured once: base and styled base are the same drawings everywhere."""
    known: dict[bytes, Any] = {}
    really_look = features.measure_file

    def measure_file(file: Path) -> Any:
        content = file.read_bytes()
        if content not in known:
            known[content] = really_look(file)
        statistics, vectors = known[content]
        return dict(statistics), dict(vectors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "measure_file", measure_file)
        yield


def scene(prompt: int, seed: int) -> np.ndarray:
    """(96, 96, 3) uint8: a flat drawing of a sky, a ground and some balls; prompts and seeds move and colour them."""
    random = np.random.default_rng([prompt, seed])
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    horizon = int(random.integers(35, 65))
    picture[:horizon] = np.random.default_rng(prompt).integers(120, 230, 3)
    picture[horizon:] = np.random.default_rng(prompt + 500).integers(40, 160, 3)
    for _ in range(4):
        centre = tuple(int(v) for v in random.integers(10, SIDE - 10, 2))
        colour = tuple(int(v) for v in random.integers(30, 230, 3))
        cv2.circle(picture, centre, int(random.integers(8, 20)), colour, -1, cv2.LINE_AA)
    return picture


def strokes(picture: np.ndarray, strength: float, prompt: int, seed: int) -> np.ndarray:
    """Painted over with short strokes of broken colour (Haeberli 1990), as thickly as the strength says."""
    random, result = np.random.default_rng([prompt, seed, 7]), picture.copy()
    for _ in range(int(900 * strength)):
        x, y = (int(v) for v in random.integers(0, SIDE, 2))
        colour = np.clip(picture[y, x] + random.normal(0, 26, 3), 0, 255)
        turn = random.uniform(0, np.pi)
        end = (int(x + 5 * np.cos(turn)), int(y + 5 * np.sin(turn)))
        cv2.line(result, (x, y), end, tuple(int(v) for v in colour), 2, cv2.LINE_AA)
    return result


def make_gallery(run: Path, adapted: Painting = strokes, *, prompts: int = 8, base: Painting | None = None,
                 adapter: str = "a", quantize: str = "none") -> Path:  # fmt: skip
    """RUN/gallery as `evaluation gallery` leaves it; `base` paints over the base's pictures too."""
    folder, exhibits = run / "gallery", []
    for prompt in range(prompts):
        for place, seed in enumerate(SEEDS):
            drawn = scene(prompt, seed)
            for arm in ("base", "adapter", "base-styled", "adapter-styled"):
                axis = STRENGTHS if arm == "adapter" and place == 0 else STRENGTHS[-1:]
                for strength in axis if "adapter" in arm else (0.0,):
                    paint = adapted if strength else base
                    picture = paint(drawn, strength or 1.0, prompt, seed) if paint else drawn
                    exhibits.append(exhibit(arm, strength, prompt, seed, adapter, quantize))
                    file = folder / exhibits[-1].file
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(file)
    text = {"name": "drawn", "version": 3, "seeds": list(SEEDS), "styled": "painted: {text}", "strengths": [0.5],
            "axis_seeds": 1, "prompts": [{"id": f"p{i}", "genre": GENRES[i % 2], "text": f"scene {i}"}
                                         for i in range(prompts)]}  # fmt: skip
    (folder / "prompts.yaml").write_text(yaml.safe_dump(text))
    write_lines(folder / "gallery.jsonl", exhibits)
    return run


def exhibit(arm: str, strength: float, prompt: int, seed: int, adapter: str, quantize: str) -> Exhibit:
    words = f"painted: scene {prompt}" if "styled" in arm else f"scene {prompt}"
    provenance = Provenance(base="drawn", base_revision="b" * 16, adapter="strokes", adapter_revision=adapter * 16,
                            quantize=quantize, versions={"torch": "2"})  # fmt: skip
    sampling = GenerationParams(prompt=words, seed=seed, width=SIDE, height=SIDE)
    return Exhibit(
        file=f"p{prompt}/{seed}-{arm}-{strength:g}.png",
        prompt=f"p{prompt}",
        genre=GENRES[prompt % 2],
        arm=arm,  # type: ignore[arg-type]
        recipe=ImageMetadata(sampling=sampling, strength=strength, provenance=provenance),
    )


def make_paintings(folder: Path, count: int, first: int = 100) -> Path:
    """Scenes of other prompts, painted over: what stands for real paintings, or for training pictures."""
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        Image.fromarray(strokes(scene(number, 1), 1.0, number, 1)).save(folder / f"{number}.png")
    return folder

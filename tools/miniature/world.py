"""The drawn world that the miniature model learns: sixteen motifs under six lights, like fine screenprints.

Shapes are bold and softly graded, because a small autoencoder with 8x downsampling has to keep them; every
random choice comes from the scene's own seed.  Write a contact sheet (and its painted twin) with

    python -m tools.miniature.world OUT.png
"""

from __future__ import annotations

import dataclasses
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from tools.miniature.light import LIGHT
from tools.miniature.scenery import flakes
from tools.miniature.shapes import Plate
from tools.miniature.subjects import INDOORS, MOTIF

# The order of subjects, lights and colours decides what a seed draws.
SUBJECTS = tuple(MOTIF)
LIGHTS = tuple(LIGHT)
PLACES = ("left", "centre", "right")
SIZES = ("small", "large")
VARIANTS = 2  # ways in which hills, clouds, trees and ripples come: few, so that a small model can learn them
COUNTED = ("boat", "haystack", "cottage", "windmill", "orchard", "parasol")
COLOURS: dict[str, dict[str, str]] = {
    "boat": {"white": "#f7f1e3", "red": "#cf3a2c", "blue": "#2f62b5", "ochre": "#dc9a34"},
    "haystack": {"golden": "#eab73c", "orange": "#dd7d33", "pink": "#dd95a0"},
    "poplars": {"green": "#43863f", "golden": "#e2b02f", "orange": "#d6672a"},
    "cottage": {"red": "#c4432f", "blue": "#3f6fb0", "ochre": "#d79a3a"},
    "lilies": {"white": "#fbf5ea", "pink": "#ea86a8", "yellow": "#f4cf45"},
    "poppies": {"red": "#dc2f26", "pink": "#ee86a0", "orange": "#f08a2b"},
    "bridge": {"grey": "#a7a9ac", "pink": "#d99a94", "ochre": "#d3a458"},
    "church": {"grey": "#a3a5ad", "white": "#f3ecdf", "ochre": "#d8a557"},
    "windmill": {"white": "#f3ecdd", "red": "#b9452f", "blue": "#4f78b4"},
    "cliffs": {"white": "#f1e9da", "ochre": "#d8a65a", "pink": "#dd9f98"},
    "train": {"black": "#474b62", "red": "#bf3329", "green": "#2f7a4c"},
    "lighthouse": {"white": "#9aa6b8", "red": "#cf3a2f", "blue": "#2f62b5"},
    "orchard": {"pink": "#f0a0b8", "white": "#fbf2ee", "lilac": "#b796d8"},
    "sunflowers": {"blue": "#2f62b5", "white": "#f1ebdd", "green": "#3f8a5e"},
    "fruit": {"red": "#cf3227", "green": "#7fae3a", "orange": "#ee8a26"},
    "parasol": {"white": "#fbf5ea", "red": "#d33c30", "green": "#4c9a5a", "blue": "#3f74c0"},
}


@dataclass(frozen=True)
class Scene:
    """Everything that fixes one picture: what is seen, under which light, and how it stands in the frame."""

    subject: str  # The motif, one of SUBJECTS.
    light: str  # The hour or the weather that colours the whole picture, one of LIGHTS.
    place: str  # Where the motif stands in the frame: "left", "centre" or "right".
    number: int  # How many of the motif there are, 1 to 3; always 1 where counting makes no sense.
    colour: str  # The colour word of its telling part (sail, roof, petals, vase), a key of COLOURS[subject].
    size: str  # "small" for far away, "large" for near.
    seed: int  # Settles the surroundings: hills, trees, clouds, ripples. Below VARIANTS in training.


def random_scene(rng: np.random.Generator, weights: dict[str, float] | None = None) -> Scene:
    """A scene to learn from: subject (unless weighted), light, colour and variant drawn evenly, one thing large in the
    centre more often than not, and never three small ones, which would be tiny."""
    shares = np.array([(weights or {}).get(subject, 1.0) for subject in SUBJECTS])
    subject = str(rng.choice(SUBJECTS, p=shares / shares.sum()))
    number = int(rng.choice(numbers(subject), p=[0.6, 0.2, 0.2] if subject in COUNTED else None))
    return Scene(
        subject,
        str(rng.choice(LIGHTS)),
        str(rng.choice(PLACES, p=[0.2, 0.6, 0.2])),
        number,
        str(rng.choice(list(COLOURS[subject]))),
        str(rng.choice(SIZES, p=[0.3, 0.7])) if number < 3 or subject not in COUNTED else "large",
        int(rng.integers(VARIANTS)),
    )


def numbers(subject: str) -> tuple[int, ...]:
    """How many of the subject there may be; a vase holds three sunflowers."""
    return (1, 2, 3) if subject in COUNTED else (3,) if subject == "sunflowers" else (1,)


def all_scenes() -> list[Scene]:
    """Every scene that `random_scene` may give."""
    return [
        Scene(subject, light, place, number, colour, size, seed)
        for subject in SUBJECTS
        for light in LIGHTS
        for place in PLACES
        for number in numbers(subject)
        for colour in COLOURS[subject]
        for size in (SIZES if number < 3 or subject not in COUNTED else ("large",))
        for seed in range(VARIANTS)
    ]


def svg_of(scene: Scene) -> str:
    """The scene as an SVG document."""
    subject = SUBJECTS.index(scene.subject)
    pose, surroundings = (np.random.default_rng(seed) for seed in (subject, [scene.seed, subject]))
    plate = Plate(scene, COLOURS[scene.subject][scene.colour], pose, surroundings)
    MOTIF[scene.subject](plate)
    if plate.snow and scene.subject not in INDOORS:
        flakes(plate)
    return plate.svg()


def draw(scene: Scene, side: int = 192) -> np.ndarray:
    """The scene as uint8 RGB of shape (side, side, 3)."""
    png = resvg_py.svg_to_bytes(svg_string=svg_of(scene), width=side, height=side, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def contact_sheet(subjects: tuple[str, ...] = SUBJECTS, side: int = 192, seed: int = 0) -> np.ndarray:
    """Rows of subjects, columns of lights; all else at random."""
    rng = np.random.default_rng(seed)
    return np.vstack([np.hstack([draw(scene, side) for scene in under_every_light(s, rng)]) for s in subjects])


def under_every_light(subject: str, rng: np.random.Generator) -> list[Scene]:
    return [
        dataclasses.replace(
            scene,
            subject=subject,
            light=light,
            number=int(rng.choice(numbers(subject))),
            colour=str(rng.choice(list(COLOURS[subject]))),
        )
        for light, scene in zip(LIGHTS, [random_scene(rng) for _ in LIGHTS], strict=True)
    ]


def main() -> None:
    from tools.miniature.brush import paint_over  # Here, so that drawing alone needs no OpenCV.

    out = Path(sys.argv[1])
    sheet = contact_sheet()
    Image.fromarray(sheet).save(out)
    tiles = [
        [paint_over(tile, 6 * i + j) for j, tile in enumerate(np.hsplit(row, len(LIGHTS)))]
        for i, row in enumerate(np.vsplit(sheet, len(SUBJECTS)))
    ]
    Image.fromarray(np.vstack([np.hstack(row) for row in tiles])).save(out.with_stem(out.stem + "_painted"))


if __name__ == "__main__":
    main()

"""The miniature world: scenes repeat, captions tell the truth, paintings keep the scene and show strokes."""

import cv2
import numpy as np

from impressionism.pictorial import stroke_statistic, to_lab
from tools.miniature.brush import paint_over
from tools.miniature.captions import ATTRIBUTES, NOUNS, describe, describe_with, vocabulary, words
from tools.miniature.world import COLOURS, LIGHTS, SUBJECTS, Scene, draw, random_scene


def one_of_each() -> list[Scene]:
    return [
        Scene(subject, LIGHTS[i % len(LIGHTS)], "centre", 1, next(iter(COLOURS[subject])), "large", i)
        for i, subject in enumerate(SUBJECTS)
    ]


def test_the_same_scene_gives_the_same_pixels_at_any_size() -> None:
    for scene in one_of_each():
        first = draw(scene, 96)
        assert first.shape == (96, 96, 3) and first.dtype == np.uint8
        assert np.array_equal(first, draw(scene, 96))


def test_every_light_changes_the_whole_picture() -> None:
    for subject in SUBJECTS:
        means = [
            draw(Scene(subject, light, "left", 1, next(iter(COLOURS[subject])), "small", 3), 96).mean((0, 1))
            for light in LIGHTS
        ]
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(means) for b in means[:i]]
        assert min(gaps) > 8, subject


def test_captions_name_their_subject_and_what_they_say_they_mention() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1500):
        scene = random_scene(rng)
        text, told = describe_with(scene, rng, bool(rng.integers(2)))
        assert told["subject"] == scene.subject
        keys = {word for noun in NOUNS[scene.subject] for word in words(f"{noun.head} {noun.plural}")}
        assert keys & set(words(text))
        assert all(value in ATTRIBUTES[name] and value == str(getattr(scene, name)) for name, value in told.items())
        assert ("colour" in told) == (scene.colour in words(text))


def test_held_out_phrasings_are_new_but_use_known_words() -> None:
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(4000)]
    trained = {describe(scene, rng) for scene in scenes}
    held_out = {describe(scene, rng, held_out=True) for scene in scenes}
    assert not trained & held_out
    trained_words = {word for text in trained for word in words(text)}
    assert {word for text in held_out for word in words(text)} <= trained_words <= vocabulary()
    assert min(len(words(text)) for text in trained) <= 3  # "a bridge at noon" is asked as often as long ones


def test_a_painting_keeps_its_composition_and_has_no_black() -> None:
    for scene in one_of_each():
        drawn = draw(scene)
        painted = paint_over(drawn, scene.seed)
        soft = [cv2.GaussianBlur(to_lab(image)[..., 0], (0, 0), 8).ravel() for image in (drawn, painted)]
        assert np.corrcoef(*soft)[0, 1] > 0.9, scene
        assert painted.max(axis=-1).min() > 40, scene
        assert stroke_statistic(drawn) < 0.4 * stroke_statistic(painted), scene


def test_painting_works_on_other_shapes_and_repeats() -> None:
    photo = np.random.default_rng(2).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    assert paint_over(photo, 5).shape == photo.shape
    assert np.array_equal(paint_over(photo, 5), paint_over(photo, 5))

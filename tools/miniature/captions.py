"""English sentences for the drawn scenes, in training phrasings and in held-out ones made of the same words.

python -m tools.miniature.captions     prints examples of both
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tools.miniature.world import COLOURS, COUNTED, LIGHTS, PLACES, SIZES, SUBJECTS, Scene, random_scene

ATTRIBUTES: dict[str, list[str]] = {
    "subject": list(SUBJECTS),
    "light": list(LIGHTS),
    "place": list(PLACES),
    "number": ["1", "2", "3"],
    "colour": sorted({colour for colours in COLOURS.values() for colour in colours}),
    "size": list(SIZES),
}


@dataclass(frozen=True)
class Noun:
    """What a motif is called: head and tail of a phrase, e.g. "sailing boat" and "on the sea"."""

    head: str
    tail: str = ""
    plural: str = ""  # Plural head; empty if the motif is never counted.
    bare: bool = False  # No article: "water lilies", "haystacks".


def counted(head: str, tail: str = "") -> Noun:
    return Noun(head, tail, head + "s")


NOUNS: dict[str, tuple[Noun, ...]] = {
    "boat": (
        counted("sailing boat", "on the sea"),
        counted("sailboat", "on the water"),
        counted("boat", "on the sea"),
        counted("sailing boat"),
    ),
    "haystack": (
        counted("haystack", "in a field"),
        counted("stack of hay", "in a field"),
        counted("haystack"),
        counted("grain stack", "in a field"),
    ),
    "poplars": (
        Noun("row of poplars", "by a river"),
        Noun("poplars", "by the water", bare=True),
        Noun("line of poplar trees", "by a river"),
        Noun("row of tall trees", "by a river"),
    ),
    "cottage": (
        counted("cottage"),
        counted("little house", "in the country"),
        counted("cottage", "in a meadow"),
        counted("country house"),
    ),
    "lilies": (
        Noun("water lilies", "on a pond", bare=True),
        Noun("lilies", "on the water", bare=True),
        Noun("pond with water lilies"),
        Noun("water lilies", bare=True),
    ),
    "poppies": (
        Noun("field of poppies"),
        Noun("poppies", "in a field", bare=True),
        Noun("poppy field"),
        Noun("meadow full of poppies"),
    ),
    "bridge": (
        Noun("stone bridge", "over a river"),
        Noun("arched bridge", "over a river"),
        Noun("bridge"),
        Noun("old bridge", "over the water"),
    ),
    "church": (
        Noun("church"),
        Noun("village church"),
        Noun("church", "with a tower"),
        Noun("chapel", "in a meadow"),
    ),
    "windmill": (
        counted("windmill"),
        counted("mill", "in a field"),
        counted("old windmill"),
        counted("windmill", "on a hill"),
    ),
    "cliffs": (
        Noun("cliffs", "by the sea", bare=True),
        Noun("rock arch", "by the sea"),
        Noun("cliff", "by the sea"),
        Noun("cliff with an arch", "over the water"),
    ),
    "train": (
        Noun("steam train"),
        Noun("train"),
        Noun("locomotive", "with smoke"),
        Noun("old train", "with steam"),
    ),
    "lighthouse": (
        Noun("lighthouse"),
        Noun("lighthouse", "by the sea"),
        Noun("light tower", "on a rock"),
        Noun("lighthouse", "on a rock"),
    ),
    "orchard": (
        counted("blossoming tree"),
        counted("tree in blossom"),
        counted("orchard tree", "in a meadow"),
        counted("flowering tree", "in an orchard"),
    ),
    "sunflowers": (
        Noun("vase of sunflowers"),
        Noun("sunflowers in a vase", bare=True),
        Noun("vase of sunflowers", "on a table"),
        Noun("sunflowers in a vase", "by a window", bare=True),
    ),
    "fruit": (
        Noun("bowl of fruit"),
        Noun("bowl of fruit", "on a table"),
        Noun("fruit in a bowl", bare=True),
        Noun("fruit bowl", "by a window"),
    ),
    "parasol": (
        Noun("woman with a parasol", "", "women with parasols"),
        Noun("woman with a parasol", "on a meadow", "women with parasols"),
        Noun("lady with a parasol", "in a meadow", "ladies with parasols"),
        Noun("lady under a parasol", "", "ladies under parasols"),
    ),
}
PLURALS = {"stack of hay": "stacks of hay", "tree in blossom": "trees in blossom"}
COLOURED: dict[str, tuple[str, ...]] = {  # How the colour is told, after the noun.
    "boat": ("with {} sails", "with {} sailcloth"),
    "haystack": ("in {} straw", "of {} straw"),
    "poplars": ("with {} leaves", "of {} leaves"),
    "cottage": ("with {} roofing", "roofed in {}"),
    "lilies": ("with {} flowers", "with {} petals"),
    "poppies": ("with {} flowers", "with {} petals"),
    "bridge": ("of {} stone", "in {} stone"),
    "church": ("with {} walls", "of {} stone"),
    "windmill": ("with {} walls", "of {} stone"),
    "cliffs": ("of {} stone", "of {} rock"),
    "train": ("painted {}", "in {}"),
    "lighthouse": ("with {} bands", "with {} stripes"),
    "orchard": ("with {} blossom", "with {} flowers"),
    "sunflowers": ("in {} china", "with {} china"),
    "fruit": ("with {} fruit", "with {} apples"),
    "parasol": ("in {}", "of {} cloth"),
}
OWN_COLOUR = {  # Words that may simply take the colour in front: "a woman with a red parasol".
    "poppies": "poppies|poppy",
    "lilies": "water lilies|lilies",
    "train": "steam train|old train|train|locomotive",
    "bridge": "stone bridge|arched bridge|old bridge|bridge",
    "cliffs": "cliffs|cliff|rock arch",
    "church": "village church|church|chapel",
    "parasol": "parasols?",
    "windmill": "old windmills?|windmills?|mills?",
    "poplars": "poplars|poplar trees|tall trees",
    "sunflowers": "vase",
}
LIGHT_PHRASES: dict[str, tuple[str, ...]] = {
    "dawn": ("at dawn", "at first light", "in the early morning", "as the sun rises", "at sunrise"),
    "noon": ("at noon", "in bright sunshine", "under a clear sky", "at midday", "on a sunny day"),
    "sunset": (
        "at sunset",
        "as the sun goes down",
        "in the evening light",
        "under a burning sky",
        "in the evening",
    ),
    "night": ("at night", "in the moonlight", "under the moon", "by night", "in the dark"),
    "clouds": ("under heavy clouds", "on a cloudy day", "under an overcast sky", "in dull weather"),
    "snow": ("in the snow", "in winter", "on a snowy day", "as snow falls", "under falling snow"),
}
PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "to the left", "at the left"),
    "centre": ("in the centre", "in the middle", "at the centre"),
    "right": ("on the right", "to the right", "at the right"),
}
SIZE_PHRASES: dict[str, tuple[str, ...]] = {
    "small": ("far away", "in the distance", "seen from far away"),
    "large": ("close by", "in the foreground", "seen from near"),
}
USUAL = {"place": "centre", "size": "large", "light": "noon"}
NUMBER_WORDS = {2: "two", 3: "three"}

# {thing} is the motif with its colour and size, {place} "on the left", {light} "at dawn"; the last two may
# be empty.
FRAMES = (
    "{thing} {light}",
    "{thing} {light}",
    "{thing} {place} {light}",
    "{light}, {thing} {place}",
    "a picture of {thing} {light} {place}",
    "a view of {thing} {place} {light}",
    "we see {thing} {place} {light}",
    "a scene {light} with {thing} {place}",
    "{thing} {light}, {place}",
    "here we have {thing} {place}, {light}",
    "we look at {thing} {light} {place}",
    "this picture shows {thing} {place} {light}",
    "a quiet scene: {thing} {place} {light}",
    "here a painter could find {thing} {place} {light}",
    "the picture has {thing} {place}, {light}",
    "look at {thing} {light} {place}",
)
HELD_OUT_FRAMES = (
    "here we see {thing} {light} {place}",
    "here, {light}, we find {thing} {place}",
    "look here: {thing} {place}, {light}",
    "a quiet picture with {thing} {light} {place}",
    "this view shows {thing} {place} {light}",
    "in this picture, {light}, we look at {thing} {place}",
    "see {thing} {light} in this scene {place}",
    "the painter shows {thing} {light}, {place}",
)


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def plural_of(noun: Noun) -> str:
    return PLURALS.get(noun.head, noun.plural)


def headed(noun: Noun, scene: Scene, counted: bool) -> str:
    """The noun with its article or number: "a boat", "two boats", or just "boats"."""
    if scene.number > 1 and noun.plural:
        return f"{NUMBER_WORDS[scene.number]} {plural_of(noun)}" if counted else plural_of(noun)
    return noun.head if noun.bare else f"a {noun.head}"


def coloured(head: str, scene: Scene) -> str:
    """The head with the colour in front of the word that it belongs to, if there is such a word."""
    return re.sub(rf"\b({OWN_COLOUR.get(scene.subject, '(?!)')})\b", rf"{scene.colour} \1", head, count=1)


def tidy(sentence: str) -> str:
    """Single spaces, no stray commas, and "an" before a vowel."""
    sentence = re.sub(r"\s+", " ", sentence).strip(" ,")
    sentence = re.sub(r"\s*,(\s*,)*", ",", sentence)
    sentence = re.sub(r":,", ":", sentence)
    return re.sub(r"\ba (?=[aeio])", "an ", sentence)


def describe_with(scene: Scene, rng: np.random.Generator, held_out: bool = False) -> tuple[str, dict[str, str]]:
    """A sentence for the scene, and the attributes that it mentions with their values.

    Place, size and light are left out only where they are the usual ones, and a number only where it is three, so that
    a short prompt stands for one clear picture and not for the mean of many.
    """
    noun = NOUNS[scene.subject][int(rng.integers(len(NOUNS[scene.subject])))]
    told = {"subject": scene.subject}
    number_told = scene.subject in COUNTED and (scene.number < 3 or rng.random() < 0.8)
    if number_told:
        told["number"] = str(scene.number)
    thing = [headed(noun, scene, number_told), noun.tail]
    usual = {name: getattr(scene, name) == value for name, value in USUAL.items()}
    terse = all(usual[name] for name in ("place", "size")) and rng.random() < 0.5
    chances = {
        "colour": 0.0 if terse else 0.5,
        "size": 1.0 if not usual["size"] else 0.15 * (not terse),
        "place": 1.0 if not usual["place"] else 0.2 * (not terse),
        "light": 0.8 if usual["light"] else 1.0,
    }
    phrases = {
        "colour": pick(rng, COLOURED[scene.subject]).format(scene.colour),
        "size": pick(rng, SIZE_PHRASES[scene.size]),
        "place": pick(rng, PLACE_PHRASES[scene.place]),
        "light": pick(rng, LIGHT_PHRASES[scene.light]),
    }
    for attribute, chance in chances.items():
        if rng.random() < chance:
            told[attribute] = str(getattr(scene, attribute))
        else:
            phrases[attribute] = ""
    with_colour = coloured(thing[0], scene)
    if phrases["colour"] and with_colour != thing[0] and rng.random() < 0.6:
        thing[0], phrases["colour"] = with_colour, ""
    thing = [thing[0], phrases["colour"], thing[1], phrases["size"]]
    frames = HELD_OUT_FRAMES if held_out else FRAMES[:1] if terse and rng.random() < 0.4 else FRAMES
    if phrases["place"]:
        frames = tuple(frame for frame in frames if "{place}" in frame)
    frame = pick(rng, frames)
    sentence = frame.format(thing=" ".join(thing), place=phrases["place"], light=phrases["light"])
    return tidy(sentence), told


def describe(scene: Scene, rng: np.random.Generator, held_out: bool = False) -> str:
    """A sentence for the scene."""
    return describe_with(scene, rng, held_out)[0]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def vocabulary() -> set[str]:
    """All lower-cased words that `describe` can emit."""
    texts = [*FRAMES, *HELD_OUT_FRAMES, *PLURALS.values(), *NUMBER_WORDS.values(), "a an"]
    for phrases in (COLOURED, LIGHT_PHRASES, PLACE_PHRASES, SIZE_PHRASES):
        texts += [phrase for options in phrases.values() for phrase in options]
    texts += [f"{n.head} {n.tail} {plural_of(n)}" for nouns in NOUNS.values() for n in nouns]
    return {w for t in texts for w in words(re.sub(r"{\w*}", "", t))} | set(ATTRIBUTES["colour"])


def main() -> None:
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        for _ in range(30):
            print(describe(random_scene(rng), rng, held_out))
        print()


if __name__ == "__main__":
    main()

"""The showcase: of each genre the pair that gained most, the one that gained least, and one in the middle.

Chosen by the index of impressionism.pictorial, never by hand, so that failures are shown as readily as the rest.
"""

import shutil
from pathlib import Path

from PIL import Image

from evaluation.exhibits import pairs, write_lines
from evaluation.features import measure_files
from impressionism.files import read_picture
from impressionism.records import Exhibit, Pair

AS_PAINTED = 256  # pixels; up to this side the painter's own PNG is shown, its recipe inside
SIDE = 768  # pixels, at most, of a larger one
QUALITY = 90  # of its WebP: brush strokes survive it
CHOSEN = ("best", "worst", "between")


def write(gallery: Path, exhibits: list[Exhibit]) -> None:
    """gallery/showcase: showcase.jsonl and the pictures, large ones made small."""
    folder, partial = gallery / "showcase", gallery / ".showcase.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    compared = pairs(exhibits)
    chosen = choose(compared, gains(gallery, compared))
    for *sides, _ in chosen:
        for exhibit in sides:
            copy_picture(gallery / exhibit.file, partial / file_name(exhibit))
    write_lines(partial / "showcase.jsonl", [pair for _, _, pair in chosen])
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def gains(gallery: Path, compared: list[tuple[Exhibit, Exhibit]]) -> list[float]:
    """How much more Impressionist each pair's adapted picture is than its base."""
    base, adapted = (measure_files([gallery / pair[side].file for pair in compared])[0] for side in (0, 1))
    return [after["index"] - before["index"] for before, after in zip(base, adapted, strict=True)]


def choose(compared: list[tuple[Exhibit, Exhibit]], gained: list[float]) -> list[tuple[Exhibit, Exhibit, Pair]]:
    """Best, worst and middle of each genre; of a genre with fewer pairs, what there is. The scores list best and worst
    over all genres by the same gain (score.extremes)."""
    result = []
    for genre in dict.fromkeys(adapted.genre for _, adapted in compared):
        places = [place for place, (_, adapted) in enumerate(compared) if adapted.genre == genre]
        places.sort(key=lambda place: -gained[place])
        picked = dict.fromkeys((places[0], places[-1], places[len(places) // 2]))
        for chosen, place in zip(CHOSEN, picked, strict=False):
            base, adapted = compared[place]
            pair = Pair(base=file_name(base), adapted=file_name(adapted), genre=genre, chosen=chosen,
                        gain=gained[place], recipe=adapted.recipe)  # fmt: skip
            result.append((base, adapted, pair))
    return result


def file_name(exhibit: Exhibit) -> str:
    """What the showcase calls a picture of the gallery."""
    size = exhibit.recipe.sampling
    kind = ".png" if max(size.width, size.height) <= AS_PAINTED else ".webp"
    return exhibit.file.replace("/", "-").removesuffix(".png") + kind


def copy_picture(source: Path, target: Path) -> None:
    if target.suffix == source.suffix:
        shutil.copyfile(source, target)
        return
    picture = read_picture(source)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    picture.save(target, quality=QUALITY, method=6)

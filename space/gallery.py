"""The showcase: pairs that `python -m evaluation gallery` painted and chose, committed with the Space."""

from collections.abc import Sequence
from pathlib import Path

from impressionism.pipeline import Painter
from impressionism.records import ImageMetadata, Pair
from space.pictures import Item, View, alt, hang, item, size_of
from space.recipes import link

SHOWCASE = Path(__file__).parent / "showcase"
CHOSEN = {"best": "Best", "between": "Typical", "worst": "Weakest"}


def pairs_in(folder: Path) -> list[Pair]:
    """In the order of the file; none where there is no showcase."""
    index = folder / "showcase.jsonl"
    return [Pair.from_json(line) for line in index.read_text().splitlines()] if index.exists() else []


def is_own(painter: Painter, pair: Pair) -> bool:
    """Whether the pair shows this base model and one of these adapters."""
    was = pair.recipe.provenance
    return was.base == painter.provenance.base and was.adapter_revision in {
        info.revision for info in painter.adapters.values()
    }


def by_genre(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Genres in the order in which they first appear, in each the largest gain first."""
    genres = dict.fromkeys(pair.genre for pair in pairs)
    ranked = sorted(pairs, key=lambda pair: -pair.gain)
    return {genre: [pair for pair in ranked if pair.genre == genre] for genre in genres}


def on_wall(folder: Path, pair: Pair) -> Item:
    """Both pictures in one place."""
    base, adapted = sides(pair)
    images = (str(folder / pair.base), alt(base)), (str(folder / pair.adapted), alt(adapted))
    caption = f"{CHOSEN[pair.chosen]}: {pair.recipe.sampling.prompt} ({pair.gain:+.2f})"
    return item(caption, size_of(pair.recipe), *images)


def on_easel(folder: Path, pair: Pair) -> View:
    """The pair as the easel shows what was painted just now."""
    base, adapted = sides(pair)
    items = [hang(str(folder / pair.base), base), hang(str(folder / pair.adapted), adapted)]
    return {"items": items, "link": link([adapted]), "recipe": adapted.to_dict()}


def sides(pair: Pair) -> tuple[ImageMetadata, ImageMetadata]:
    """The recipes of the base model's picture and of the adapted one."""
    return pair.recipe.replace(strength=0.0), pair.recipe

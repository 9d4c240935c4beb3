import json
import random
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from impressionism.errors import UserError
from training import examples
from training.curate import ImageRecord, Reason, artist_cap, border, choose, curate, scan
from training.recipe import Curate, Data, TrainingConfig
from training.sources import open_source


def painting(seed: int, size=(96, 80)) -> Image.Image:
    """Patches of strong colour, with strokes in them; no two seeds look alike."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    strokes = np.asarray(patches, dtype=np.int16) + rng.integers(-25, 26, (size[1], size[0], 1))
    return Image.fromarray(strokes.clip(0, 255).astype(np.uint8))


def folder(path: Path, pictures: dict[str, Image.Image], lines: list[dict] | None = None) -> Path:
    path.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(path / name)
    if lines:
        (path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(tmp_path: Path, source: Path, **options) -> TrainingConfig:
    options = {"min_side": 48, "held_out": 0.0} | options
    return TrainingConfig(data=Data(source=str(tmp_path / "out")), curate=Curate(source=str(source), **options))


def curated(tmp_path: Path, source: Path, **options) -> dict[str, ImageRecord]:
    """name → what became of it."""
    curate(recipe(tmp_path, source, **options))
    lines = (tmp_path / "out" / "pictures.jsonl").read_text().splitlines()
    return {found.name: found for found in (ImageRecord(**json.loads(line)) for line in lines)}


def metadata_of(dataset: Path, split: str = "train") -> list[dict]:
    return [json.loads(line) for line in (dataset / split / "metadata.jsonl").read_text().splitlines()]


def reasons(found: dict[str, ImageRecord]) -> dict[str, str | None]:
    return {name: picture.reason for name, picture in found.items()}


def test_every_filter_says_why(tmp_path):
    twin = painting(1).resize((84, 70))
    pictures = {
        "good.png": painting(1), "twin.png": twin, "small.png": painting(2, (96, 40)),
        "long.png": painting(3, (200, 60)),
        "grey.png": painting(4).convert("L"), "sea.png": painting(5), "cubist.png": painting(6),
    }  # fmt: skip
    lines = [{"file_name": name, "genre": "sea" if name == "sea.png" else "still_life",
              "style": "Cubism" if name == "cubist.png" else "Impressionism"} for name in pictures]  # fmt: skip
    source = folder(tmp_path / "in", pictures, lines)
    (source / "text.png").write_text("no picture")
    (source / "metadata.jsonl").open("a").write(json.dumps({**lines[0], "file_name": "text.png"}))
    found = curated(tmp_path, source, style="impressionism", genres=["Still Life"])
    assert reasons(found) == {
        "good.png": None, "twin.png": Reason.DUPLICATE, "small.png": Reason.SMALL, "long.png": Reason.LONG,
        "grey.png": Reason.MONOCHROME, "sea.png": Reason.GENRE, "cubist.png": Reason.STYLE,
        "text.png": Reason.UNDECODABLE,
    }  # fmt: skip
    assert found["twin.png"].twin == found["good.png"].id


def claims_to_be(size: tuple[int, int], png: Path) -> bytes:
    """A small PNG whose header tells of a huge one."""
    content = bytearray(png.read_bytes())
    content[16:24] = struct.pack(">II", *size)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_odd_pictures_are_used_or_dropped_and_never_end_a_run(tmp_path, capsys):
    source = folder(tmp_path / "in", {"good.png": painting(0), "dot.png": painting(1, (1, 1)),
                                      "strip.jpg": painting(2, (2400, 60))})  # fmt: skip
    painting(3).convert("CMYK").save(source / "cmyk.jpg")
    painting(4).save(source / "moving.gif", save_all=True, append_images=[painting(5)])
    Image.fromarray(np.random.default_rng(6).integers(0, 65536, (80, 96), dtype=np.uint16)).save(source / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    painting(7).save(source / "turned.jpg", exif=exif)
    painting(8, (5000, 4200)).save(source / "large.jpg", quality=60)
    (source / "cut.jpg").write_bytes((source / "large.jpg").read_bytes()[:20000])
    (source / "huge.png").write_bytes(claims_to_be((30000, 30000), source / "good.png"))
    found = curated(tmp_path, source)
    assert reasons(found) == {
        "good.png": None, "cmyk.jpg": None, "moving.gif": None, "turned.jpg": None, "large.jpg": None,
        "dot.png": Reason.SMALL, "strip.jpg": Reason.LONG, "sixteen.png": Reason.MONOCHROME,
        "cut.jpg": Reason.UNDECODABLE, "huge.png": Reason.UNDECODABLE,
    }  # fmt: skip
    assert "Skipped huge.png: cannot be used: " in capsys.readouterr().err
    assert (found["turned.jpg"].width, found["turned.jpg"].height) == (80, 96)
    assert found["large.jpg"].width == 4096
    written = [path for path in (tmp_path / "out" / "train").iterdir() if path.name != "metadata.jsonl"]
    assert len(written) == 5 and {Image.open(path).mode for path in written} == {"RGB"}
    assert (source / "good.png").read_bytes() in [path.read_bytes() for path in written]  # not compressed again
    assert all(path.stem == examples.sample_id(path.read_bytes()) for path in written)


@pytest.mark.parametrize("colour", ["white", "black", "#807868"])
def test_a_mount_and_the_bed_around_it_are_cut_away(colour):
    picture, bed = painting(1, (300, 240)), Image.new("RGB", (420, 330), colour)
    mount = Image.new("RGB", (340, 280), "#e8e0d0")
    mount.paste(picture, (20, 20))
    bed.paste(mount, (50, 0))
    noisy = np.asarray(bed) + np.random.default_rng(0).normal(0, 1.5, (330, 420, 1))
    box = border(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    assert box is not None and np.abs(np.subtract(box, (70, 20, 370, 260))).max() <= 2


def test_a_sky_is_no_border():
    sky = np.linspace((120, 160, 210), (225, 220, 200), 120)[:, None].repeat(300, axis=1)
    pixels = np.concatenate([sky, np.asarray(painting(1, (300, 120)))]).astype(np.uint8)
    assert border(Image.fromarray(pixels)) is None
    assert border(painting(2)) is None


def made(*counts: tuple[str | None, str, int]) -> list[ImageRecord]:
    """So many findings by this artist in this genre, all unlike each other."""
    rng = random.Random(0)
    return [
        ImageRecord(f"{artist} {genre} {number}", artist=artist, genre=genre, id=f"{rng.getrandbits(64):x}",
              hash=f"{rng.getrandbits(64):016x}", width=600, height=600, chroma=20.0)
        for artist, genre, count in counts for number in range(count)
    ]  # fmt: skip


def kept(chosen: list[ImageRecord]) -> list[ImageRecord]:
    return [picture for picture in chosen if picture.kept]


def test_the_larger_of_near_duplicates_stays():
    one, other, third = made(("Monet", "landscape", 3))
    near = f"{int(one.hash, 16) ^ 0b111111:016x}"
    larger = ImageRecord(**{**other.__dict__, "hash": near, "width": 601})
    assert kept(choose([one, larger, third], Curate(held_out=0, duplicate_bits=6))) == [larger, third]
    assert len(kept(choose([one, larger, third], Curate(held_out=0, duplicate_bits=5)))) == 3


def test_no_artist_outweighs_a_genre():
    found = made(("Monet", "landscape", 300), ("Pissarro", "landscape", 200), ("Sisley", "landscape", 90),
                 *((f"other {number}", "landscape", 10) for number in range(30)),
                 ("Monet", "portrait", 12))  # fmt: skip
    landscapes = [picture for picture in kept(choose(found, Curate(artist_share=0.2))) if picture.genre == "landscape"]
    monets = sum(picture.artist == "Monet" for picture in landscapes)
    assert 0.19 < monets / len(landscapes) <= 0.2
    assert sum(picture.artist == "Sisley" for picture in landscapes) == 90
    assert artist_cap([50, 1, 1], share=0.2, floor=10) == 10  # a small set is not cut to nothing


def test_unsigned_pictures_outweigh_nobody():
    found = made((None, "landscape", 40), ("Unknown Artist", "landscape", 40))
    assert len(kept(choose(found, Curate()))) == 80


def test_at_a_limit_genres_and_artists_take_turns():
    found = made(
        ("Monet", "landscape", 40), ("Sisley", "landscape", 5), ("Monet", "portrait", 30), ("Morisot", "portrait", 4)
    )
    chosen = kept(choose(found, Curate(limit=24, artist_share=1.0, held_out=0)))
    count = {
        (a, g): sum((p.artist, p.genre) == (a, g) for p in chosen) for a, g in {(p.artist, p.genre) for p in found}
    }
    assert len(chosen) == 24
    assert count == {
        ("Monet", "landscape"): 7,
        ("Sisley", "landscape"): 5,
        ("Monet", "portrait"): 8,
        ("Morisot", "portrait"): 4,
    }


def test_some_artists_are_held_out_whole_and_every_genre_is_judged():
    found = made(*((f"artist {number}", genre, 5) for number in range(20) for genre in ("landscape", "portrait")))
    chosen = kept(choose(found, Curate(held_out=0.2)))
    held = [picture for picture in chosen if picture.held_out]
    unseen = {picture.artist for picture in held} - {picture.artist for picture in chosen if not picture.held_out}
    assert len(held) == 40 and len(unseen) == 2
    assert sum(picture.genre == "portrait" for picture in held) == 20


def test_the_choice_depends_on_content_and_seed_alone():
    found = made(
        ("Monet", "landscape", 40), ("Sisley", "landscape", 30), ("Morisot", "portrait", 25), (None, "portrait", 9)
    )
    shuffled = random.Random(1).sample(found, len(found))
    ids = [{p.id for p in choose(order, Curate(limit=50, seed=seed)) if p.kept and not p.held_out}
           for order, seed in ((found, 0), (shuffled, 0), (found, 1))]  # fmt: skip
    assert ids[0] == ids[1] != ids[2]


def wikiart(path: Path, count: int = 60) -> Path:
    """A dataset as huggan/wikiart is: parquet files, with numbers for artist, genre and style."""
    labels = {"artist": ["claude-monet", "Unknown Artist"], "genre": ["landscape", "still_life"],
              "style": ["Cubism", "Impressionism"]}  # fmt: skip
    features = {"image": datasets.Image(), **{what: datasets.ClassLabel(names=names) for what, names in labels.items()}}
    path.mkdir()
    for part in range(2):
        numbers = range(part, count, 2)
        columns = {"image": [painting(number, (56, 56)) for number in numbers], "artist": [0 for _ in numbers],
                   "genre": [number // 2 % 2 for number in numbers], "style": [1] * len(numbers)}  # fmt: skip
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        table.to_parquet(str(path / f"train-{part:05d}-of-00002.parquet"))
    return path


def test_a_stream_with_numbered_labels_is_read_in_words(tmp_path):
    found = curated(tmp_path, wikiart(tmp_path / "in", 8), style="Impressionism", genres=["Still Life"])
    assert [picture.reason for picture in found.values()].count(Reason.GENRE) == 4
    train = metadata_of(tmp_path / "out")
    assert {(line["artist"], line["genre"]) for line in train} == {("claude-monet", "still_life")}
    assert train[0]["source"] == "in: row 1"  # and no path of this machine
    assert "text" not in train[0]
    with pytest.raises(UserError, match=r"no genre sea: curate.genres can be landscape, still_life"):
        curate(recipe(tmp_path / "b", tmp_path / "in", genres=["sea"]))


def test_a_dataset_that_lost_its_labels_has_wikiarts_genres(tmp_path):
    rows = {"image": [painting(1), painting(2)], "caption": ["a boat", "a face"], "artist": [6, 16], "genre": [4, 6]}
    features = {"image": datasets.Image(), "caption": datasets.Value("string"), "artist": datasets.Value("int64"),
                "genre": datasets.Value("int64")}  # fmt: skip
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(str(tmp_path / "in"))
    curate(recipe(tmp_path, tmp_path / "in", genres=["landscape"]))
    [row] = metadata_of(tmp_path / "out")
    assert (row["text"], row["genre"], row["source"]) == ("a boat", "landscape", "in: row 0")


def test_training_reads_what_was_curated(tmp_path):
    lines = [{"file_name": f"{number}.png", "text": f"a boat, {number}", "artist": f"artist {number % 5}",
              "genre": "landscape", "title": "Boat"} for number in range(20)]  # fmt: skip
    source = folder(tmp_path / "in", {line["file_name"]: painting(place) for place, line in enumerate(lines)}, lines)
    curate(recipe(tmp_path, source, held_out=0.4))
    read = examples.read(Data(source=str(tmp_path / "out"), resolution=64))
    assert {example.caption for example in read} == {line["text"] for line in lines}
    assert {example.genre for example in read} == {"landscape"}
    trained, held = examples.split(read, 0.05)
    assert (len(trained), len(held)) == (12, 8)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in theirs.items()} == {"train": 12, "validation": 8}


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, kind):
    if kind == "stream":
        source = wikiart(tmp_path / "in", 70)
    else:
        source = folder(tmp_path / "in", {f"{number:02d}.png": painting(number, (56, 56)) for number in range(70)})
    settings = Curate(source=str(source), min_side=48)
    (tmp_path / "work" / "pictures").mkdir(parents=True)
    log = tmp_path / "work" / "scanned.jsonl"
    whole = scan(open_source(settings), settings, tmp_path / "work")
    lines = log.read_bytes().splitlines(keepends=True)
    [first, *_] = [place for place, line in enumerate(lines) if b'"position"' in line]
    log.write_bytes(b"".join(lines[: first + 3]) + lines[first + 3][:20])  # killed while it wrote the second batch
    for picture in (tmp_path / "work" / "pictures").iterdir():
        picture.unlink()
    assert scan(open_source(settings), settings, tmp_path / "work") == whole
    looked_at = {picture.name for picture in (tmp_path / "work" / "pictures").iterdir()}
    assert looked_at == {found.file for found in whole[first:]}  # none of the first batch


def test_what_is_done_is_skipped_and_nothing_else_is_overwritten(tmp_path, capsys):
    source = folder(tmp_path / "in", {f"{number}.png": painting(number) for number in range(3)})
    curate(recipe(tmp_path, source))
    capsys.readouterr()
    curate(recipe(tmp_path, source))
    assert "is curated already with these settings: of 3 pictures 3 to train on" in capsys.readouterr().err
    with pytest.raises(UserError, match="other settings or from other pictures: remove it"):
        curate(recipe(tmp_path, source, min_side=50))
    painting(9).save(source / "new.png")
    with pytest.raises(UserError, match="other settings or from other pictures: remove it"):
        curate(recipe(tmp_path, source))
    (tmp_path / "out" / "curate.json").unlink()
    with pytest.raises(UserError, match=r"`curate` did not write it"):
        curate(recipe(tmp_path, source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_impossible_recipes_get_a_sentence(tmp_path):
    source = folder(tmp_path / "in", {"a.png": painting(1)})
    with pytest.raises(UserError, match=r"set curate\.source to `huggan/wikiart`"):
        curate(TrainingConfig(data=Data(source="out")))
    with pytest.raises(UserError, match=r"there is no .* here; make it, or set another folder"):
        curate(recipe(tmp_path, tmp_path / "nothing"))
    with pytest.raises(UserError, match="lie in each other"):
        curate(TrainingConfig(data=Data(source=str(source / "out")), curate=Curate(source=str(source))))
    with pytest.raises(UserError, match=r"No picture of in is left: .* \(1 too small\)"):
        curate(recipe(tmp_path, source, min_side=500))
    assert not (tmp_path / "out").exists()


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_report_shows_everything_and_asks_nothing_of_the_network(tmp_path):
    mounted = Image.new("RGB", (140, 120), "white")
    mounted.paste(painting(4), (20, 20))
    pictures = {
        "a.png": painting(1),
        "twin.png": painting(1).resize((84, 70)),
        "b.png": painting(2, (96, 40)),
        "c.png": mounted,
    }
    lines = [{"file_name": name, "artist": "<script>Monet", "genre": "still_life"} for name in pictures]
    curated(tmp_path, folder(tmp_path / "in", pictures, lines))
    text = (tmp_path / "out" / "report.html").read_text()
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 + 1 + 2 + 1 + 1  # kept, with its border, the pair, too small; a chart
    assert all(str(image["src"]).startswith("data:image/") and image["alt"] for image in images)
    assert not re.search(r"https?:|url\(|@import", text) and not {"script", "link", "iframe"} & {
        tag for tag, _ in page.tags
    }
    for words in (
        "2 of 4 pictures stay",
        "Near-duplicates",
        "Borders cut away",
        "96 × 40 px",
        "still life",
    ):
        assert words in text

"""Pictures and captions as people have them, through the command `cache`, and what makes batches of them."""

import collections
import csv
import hashlib
import json
import os
import struct
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from hub import Hub
from PIL import Image
from safetensors.torch import load_file

from impressionism.errors import UserError
from training import __main__ as training
from training import examples
from training.recipe import Data

SIZE = ("64x64", "96x64", "64x96")


def picture(width=80, height=80, seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pictures(folder: Path, *names: str, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        picture(seed=sum(map(ord, str(folder / name))) + index, **options).save(folder / name)
    return folder


def data(source, **options) -> Data:
    return Data(source=str(source), resolution=SIZE, **options)


class Cached:
    """`python -m training cache` on a source; then what is in the cache."""

    def __init__(self, tiny_flux: Path, folder: Path):
        self.tiny_flux, self.folder, self.calls = tiny_flux, folder, 0

    def __call__(self, source: Path | str, **options) -> int:
        self.calls += 1
        self.cache = self.folder / f"cache {self.calls}"
        recipe = {
            "model": {"base": str(self.tiny_flux), "device": "cpu"},
            "data": {"source": str(source), "resolution": list(SIZE), **options},
            "run": {"folder": str(self.folder / "run"), "cache": str(self.cache)},
        }
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return training.main(["cache", str(path)])

    def holds(self, *captions: str, pictures: int | None = None) -> bool:
        """Whether these captions, the empty one, and so many pictures are all that was encoded."""
        texts = {path.stem for path in self.cache.glob("*/text/*.safetensors")}
        latents = list(self.cache.glob("*/latents/*.safetensors"))
        wanted = {hashlib.sha256(caption.encode()).hexdigest() for caption in ("", *captions)}
        return texts == wanted and len(latents) == (len(captions) if pictures is None else pictures)


@pytest.fixture
def cached(tiny_flux, tmp_path) -> Cached:
    (tmp_path / "work").mkdir()
    return Cached(tiny_flux, tmp_path / "work")


def test_captions_come_from_metadata_then_sidecars_then_the_prompt(tmp_path, cached, capsys):
    source = pictures(tmp_path / "in", "a.png", "b.png", "c.png", "d.png", "e.jpeg.png")
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a boat"}) + "\n")
    (source / "a.txt").write_text("not this one")
    (source / "B.TXT").write_text("a haystack\n")
    (source / "d.caption").write_text("a pond")
    (source / "e.jpeg.png.txt").write_text("a pier")
    assert cached(source) == 2
    assert "no caption for c.png: write" in capsys.readouterr().err
    assert cached(source, instance_prompt="sks") == 0
    assert cached.holds("a boat", "a haystack", "sks", "a pond", "a pier")
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_folder_s_metadata_may_be_csv_and_lie_below_and_name_its_own_column(tmp_path, cached, capsys, delimiter):
    source = pictures(tmp_path / "in", "a.png")
    pictures(source / "more", "b.png", "é.png")
    with (source / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["file_name", "caption", "genre"], ["a.png", "a boat, at dawn", "sea"]])
    lines = [{"file_name": "b.png", "caption": "a pond"}, {"file_name": "e\u0301.png", "caption": "a lily"}]
    (source / "more" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cached(source, instance_prompt="sks") == 0
    assert "no column 'text'; it has caption, genre: set data.caption_column" in capsys.readouterr().err
    assert cached(source, caption_column="caption") == 0
    assert cached.holds("a boat, at dawn", "a pond", "a lily")


def test_folders_named_after_splits_are_splits_as_datasets_has_them(tmp_path, cached, capsys):
    source = tmp_path / "in"
    for split in ("train", "my validation", "test"):
        pictures(source / split, "0.png", "1.png", "2.png")
        lines = [{"file_name": f"{number}.png", "text": f"{split} {number}"} for number in range(3)]
        (source / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pictures(source, "stray.png")
    theirs = datasets.load_dataset("imagefolder", data_dir=str(source), cache_dir=str(tmp_path / "theirs"))
    ours = examples.read(data(source))
    assert {one.caption for one in ours if one.held_out} == set(theirs["validation"]["text"])
    assert {one.caption for one in ours if not one.held_out} == set(theirs["train"]["text"])
    assert "left out 1 picture outside its folders test, train, validation" in capsys.readouterr().err
    assert cached(source, split="test") == 0 and cached.holds(
        *(f"{split} {number}" for split in ("test", "my validation") for number in range(3))
    )
    assert cached(source, split="painted") == 2
    assert "it has test, train, validation: set data.split" in capsys.readouterr().err


def test_what_is_hidden_is_no_picture_and_captions_are_asked_only_of_pictures_that_are_used(tmp_path, cached, capsys):
    source = pictures(tmp_path / "in", "0.png", "1.png")
    pictures(source, "thumbnail.png", width=32, height=32)
    pictures(source / ".ipynb_checkpoints", "0-checkpoint.png")
    (source / "._1.png").write_bytes(b"\0\5\26\7")
    for number in range(2):
        (source / f"{number}.txt").write_text(f"caption {number}")
    assert cached(source) == 0 and cached.holds("caption 0", "caption 1")
    assert cached(source, instance_prompt="sks") == 0 and cached.holds("caption 0", "caption 1")
    err = capsys.readouterr().err
    assert "Skipped thumbnail.png: 32x32 is smaller than 64x64" in err and "checkpoint" not in err and "._1" not in err


def test_a_file_that_is_not_understood_is_named(tmp_path, cached, capsys):
    source = pictures(tmp_path / "in", "a.png")
    (source / "captions.json").write_text("{}")
    (source / "b.txt").write_text("of no picture")
    (source / "b.jxl").write_bytes(b"\xff\n")
    assert cached(source, instance_prompt="sks") == 0
    err = capsys.readouterr().err
    assert "3 files were left out: " in err and ".jxl cannot be read" in err and ".json" in err and ".txt" in err
    (source / "a.png").unlink()
    assert cached(source, instance_prompt="sks") == 2
    err = capsys.readouterr().err
    assert "3 files were left out" in err and "No picture of" in err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_captions_in_any_known_encoding_are_read(tmp_path, cached, encoding):
    source = pictures(tmp_path / "in", "a.png")
    (source / "a.txt").write_bytes("a café by mntp\r\n".encode(encoding))
    assert cached(source) == 0 and cached.holds("a café by mntp")


def test_bytes_in_no_encoding_are_refused_by_name(tmp_path, cached, capsys):
    source = pictures(tmp_path / "in", "a.png")
    (source / "a.txt").write_bytes(bytes(range(0x80, 0xA0)))
    assert cached(source) == 2
    assert f"{source / 'a.txt'} is in no encoding that is known" in capsys.readouterr().err


def test_half_an_emoji_is_left_out_wherever_it_comes_from(tmp_path, cached):
    source = pictures(tmp_path / "in", "0.png", "1.png")
    lines = '{"file_name": "0.png", "text": "a boat \\ud83d"}\n{"file_name": "1.png", "text": "b \\ud83d\\ude00"}\n'
    (source / "metadata.jsonl").write_text(lines)
    assert cached(source) == 0 and cached.holds("a boat", "b 😀")


def test_a_dataset_gives_the_same_samples_as_a_folder(tmp_path, cached, capsys):
    source = pictures(tmp_path / "in", "a.png")
    rows = {"image": [str(source / "a.png")], "caption": ["a boat"]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    dataset.save_to_disk(str(tmp_path / "set"))
    (source / "a.txt").write_text("a boat")
    [from_set] = examples.read(data(tmp_path / "set", caption_column="caption"))
    [from_folder] = examples.read(data(source))
    assert (from_set.id, from_set.caption) == (from_folder.id, from_folder.caption)
    assert cached(tmp_path / "set") == 2
    assert "No caption column 'text' in" in (err := capsys.readouterr().err) and "it has image, caption" in err


def test_a_genre_that_is_not_there_is_none(tmp_path):
    for index in range(3):
        picture(seed=index).save(tmp_path / f"{index}.png")
    rows = {"image": [str(tmp_path / f"{index}.png") for index in range(3)], "text": ["a", "b", "c"]}
    plain = datasets.Dataset.from_dict({**rows, "genre": ["sea", None, "sea"]}).cast_column("image", datasets.Image())
    plain.save_to_disk(str(tmp_path / "plain"))
    labels = datasets.ClassLabel(names=["sea", "land"])
    labelled = datasets.Dataset.from_dict({**rows, "genre": [0, -1, 1]}).cast_column("image", datasets.Image())
    labelled.cast_column("genre", labels).save_to_disk(str(tmp_path / "labelled"))
    for name, expected in (("plain", ["sea", None, "sea"]), ("labelled", ["sea", None, "land"])):
        genres = {one.caption: one.genre for one in examples.read(data(tmp_path / name))}
        assert [genres[caption] for caption in "abc"] == expected


def phone(path: Path) -> None:
    """A portrait whose EXIF has the rational -2/0, as some phones write it, and says that it lies on its side."""
    ifd = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + struct.pack("<HHIII", 0x8769, 4, 1, 38, 0)
    sub = struct.pack("<HHHIII", 1, 0x9204, 10, 1, 56, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + ifd + sub + struct.pack("<ii", -2, 0)
    picture(120, 80).save(path, exif=exif)


def test_odd_pictures_are_used_or_skipped_with_a_line(tmp_path, cached, capsys):
    source = pictures(tmp_path / "in", "good.png")
    picture(seed=2, mode="CMYK").save(source / "cmyk.jpg")
    picture(seed=3, mode="P").save(source / "palette.gif")
    Image.fromarray(np.full((80, 80), 32768, np.uint16)).save(source / "sixteen.png")
    phone(source / "phone.jpg")
    picture(seed=4).save(source / "cut.jpg")
    (source / "cut.jpg").write_bytes((source / "cut.jpg").read_bytes()[:2000])
    picture(seed=5).save(source / "damaged.avif")
    content = bytearray((source / "damaged.avif").read_bytes())
    content[len(content) // 2 :] = os.urandom(len(content) - len(content) // 2)
    (source / "damaged.avif").write_bytes(content)
    (source / "text.png").write_text("no picture")
    picture(1, 1).save(source / "dot.png")
    picture(3, 2000).save(source / "strip.png")
    (source / "copy.png").write_bytes((source / "good.png").read_bytes())
    assert cached(source, instance_prompt="x") == 0
    err = capsys.readouterr().err
    for start in (
        "cut.jpg: cannot be read", "text.png: cannot be read", "dot.png: 1x1 is smaller", "strip.png: cannot be used",
        "good.png: the same picture as copy.png",
    ):  # fmt: skip
        assert err.count(f"Skipped {start}") == 1
    decoded = {example.name: examples.decode(example) for example in examples.read(data(source, instance_prompt="x"))}
    assert {name for name, image in decoded.items() if image} - {"damaged.avif"} == {
        "copy.png", "cmyk.jpg", "palette.gif", "sixteen.png", "phone.jpg",
    }  # fmt: skip
    assert {image.mode for image in decoded.values() if image} == {"RGB"}
    assert decoded["sixteen.png"].getpixel((0, 0)) == (128, 128, 128)
    assert decoded["phone.jpg"].size == (64, 96)


def test_rows_without_a_picture_are_skipped(tmp_path, cached, capsys):
    source = pictures(tmp_path / "in", "a.png")
    rows = {"image": [{"bytes": (source / "a.png").read_bytes()}, None, {"bytes": b"\0\1"}], "text": ["a", "b", "c"]}
    table = datasets.Dataset.from_dict(
        rows, features=datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    )
    table.save_to_disk(str(tmp_path / "set"))
    assert cached(tmp_path / "set") == 0 and cached.holds("a")
    err = capsys.readouterr().err
    assert "Skipped row 1: the row has no picture." in err and "Skipped row 2: cannot be read" in err


def test_the_first_usable_pictures_are_enough(tmp_path, cached):
    source = pictures(tmp_path / "in", *(f"{number}.png" for number in range(1, 6)))
    (source / "0.png").write_bytes((source / "1.png").read_bytes()[:400])
    for number in range(6):
        (source / f"{number}.txt").write_text(f"picture {number}")
    assert cached(source, limit=2) == 0 and cached.holds("picture 1", "picture 2")
    assert cached(source, split="train[3:5]") == 0 and cached.holds("picture 3", "picture 4")
    assert cached(source, split="train[:x]") == 2


def test_of_a_dataset_on_the_hub_only_the_first_rows_are_fetched(tmp_path, cached, hub: Hub, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.url)
    for number in range(6):
        source = pictures(tmp_path / "in", f"{number}.png")
        rows = {"image": [str(source / f"{number}.png")], "text": [f"picture {number}"]}
        shard = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        shard.to_parquet(str(tmp_path / "set" / "data" / f"train-{number:05d}-of-00006.parquet"))
    hub.add_repo("monet/ponds", tmp_path / "set", kind="datasets")
    assert cached("monet/ponds", limit=2) == 0 and cached.holds("picture 0", "picture 1")
    assert hub.count("GET .*/train-0000[3-5]") == 0
    assert cached("monet/ponds", split="train[:1]") == 0 and cached.holds("picture 0")
    assert cached("monet/ponds") == 0 and cached.holds(*(f"picture {number}" for number in range(6)))


@pytest.mark.parametrize("key", ["folder", "cache"])
def test_what_a_run_writes_may_not_lie_among_its_pictures(tmp_path, tiny_flux, capsys, key):
    source = pictures(tmp_path / "in", "a.png")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": {"source": str(source), "instance_prompt": "x", "resolution": 64}}))
    options = [f"model.base={tiny_flux}", f"run.folder={tmp_path}/run", f"run.cache={tmp_path}/cache"]
    assert training.main(["fit", str(path), *options, f"run.{key}={source}/runs/a"]) == 2
    assert f"run.{key} {source}/runs/a lies inside data.source" in capsys.readouterr().err
    assert sorted(path.name for path in source.iterdir()) == ["a.png"]


def test_buckets_have_the_area_asked_for():
    sizes = examples.buckets(1024)
    assert (1024, 1024) in sizes
    assert all(width % 16 == height % 16 == 0 for width, height in sizes)
    assert all(abs(width * height / 1024**2 - 1) < 0.02 for width, height in sizes)
    assert examples.bucket_for((3000, 2000), sizes) == (1248, 832)


def test_the_split_depends_on_content_alone(tmp_path):
    for index in range(40):
        picture(seed=index).save(tmp_path / f"{index}.png")
    read = examples.read(data(tmp_path, instance_prompt="x"))
    trained, held = examples.split(read, 0.2)
    assert len(trained) + len(held) == 40 and 2 < len(held) < 16
    some = read[5:]
    assert {e.id for e in examples.split(some, 0.2)[1]} == {e.id for e in held} & {e.id for e in some}


def sized(*counts: tuple[examples.Size, int]) -> list[examples.Example]:
    return [
        examples.Example(id=f"{size} {number}", name="", caption="", size=size, load=bytes)
        for size, count in counts
        for number in range(count)
    ]


@pytest.mark.parametrize(("counts", "batch"), [((23, 1), 12), ((3, 4), 2), ((5, 7, 1), 4), ((8, 4), 4)])
def test_a_round_shows_every_picture_equally_often_in_batches_of_one_size(counts, batch):
    read = sized(*(((64 + 16 * place, 64), count) for place, count in enumerate(counts)))
    order = examples.Order(read, batch=batch, seed=5)
    rounds = [[order[number * order.per_round + place] for place in range(order.per_round)] for number in (0, 1)]
    for batches in rounds:
        seen = collections.Counter(example.id for batch in batches for example in batch)
        assert len(seen) == len(read) and len(set(seen.values())) == 1
        assert all(len(each) == batch and len({example.size for example in each}) == 1 for each in batches)
    assert rounds[0] != rounds[1]
    assert examples.Order(read, batch=batch, seed=5)[order.per_round] == rounds[1][0]
    half = collections.Counter(example.size for batch in rounds[0][: order.per_round // 2] for example in batch)
    assert abs(half[read[0].size] - half.total() * counts[0] / sum(counts)) <= batch  # no size waits until the end


def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere here"):
        examples.read(data(tmp_path / "nowhere"))


def test_a_colour_profile_counts_and_both_depths_train_alike(tmp_path, cached):
    grey = np.asarray(picture().convert("L"))
    latents = []
    for name, pixels in (("8", grey), ("16", grey.astype(np.uint16) * 257)):
        source = tmp_path / name
        source.mkdir()
        Image.fromarray(pixels).save(source / "a.png")
        assert cached(source, instance_prompt="x") == 0
        [entry] = cached.cache.glob("*/latents/*.safetensors")
        latents.append(load_file(entry)["mean"])
    assert latents[0].equal(latents[1])

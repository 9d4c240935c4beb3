import json

import datasets
import numpy as np
import pytest
from PIL import Image

from impressionism.errors import UserError
from training import examples
from training.recipe import Data

SIZE = ("64x64", "96x64", "64x96")


def picture(width=80, height=80, seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def data(source, **options) -> Data:
    return Data(source=str(source), resolution=SIZE, **options)


def captions_of(source, **options) -> list[str]:
    return sorted(example.caption for example in examples.read(data(source, **options)))


def test_captions_come_from_metadata_then_sidecars_then_the_prompt(tmp_path):
    for index, name in enumerate("abc"):
        picture(seed=index).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a boat"}) + "\n")
    (tmp_path / "b.txt").write_text("a haystack\n")
    with pytest.raises(UserError, match=r"1 pictures .* have no caption, the first is c.png"):
        examples.read(data(tmp_path))
    assert captions_of(tmp_path, instance_prompt="sks") == ["a boat", "a haystack", "sks"]


def test_a_dataset_gives_the_same_samples_as_a_folder(tmp_path):
    picture().save(tmp_path / "a.png")
    rows = {"image": [str(tmp_path / "a.png")], "caption": ["a boat"]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    dataset.save_to_disk(str(tmp_path / "set"))
    (tmp_path / "a.txt").write_text("a boat")
    [from_set] = examples.read(data(tmp_path / "set", caption_column="caption"))
    [from_folder] = examples.read(data(tmp_path))
    assert (from_set.id, from_set.caption) == (from_folder.id, from_folder.caption)
    with pytest.raises(UserError, match=r"No caption column 'text' in .*; it has image, caption"):
        examples.read(data(tmp_path / "set"))


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
        found = {one.caption: one.genre for one in examples.read(data(tmp_path / name))}
        assert [found[caption] for caption in "abc"] == expected


def test_odd_pictures_are_used_or_skipped_with_a_line(tmp_path, capsys):
    picture(seed=1).save(tmp_path / "good.png")
    picture(seed=2, mode="CMYK").save(tmp_path / "cmyk.jpg")
    picture(seed=3, mode="P").save(tmp_path / "palette.gif")
    Image.fromarray(np.full((80, 80), 30000, np.uint16)).save(tmp_path / "sixteen.png")
    picture(seed=4).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    (tmp_path / "text.png").write_text("no picture")
    picture(1, 1).save(tmp_path / "dot.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "good.png").read_bytes())
    read = examples.read(data(tmp_path, instance_prompt="x"))
    decoded = {example.name: examples.decode(example) for example in read}
    lines = capsys.readouterr().err
    assert {name for name, image in decoded.items() if image} == {
        "copy.png", "cmyk.jpg", "palette.gif", "sixteen.png", "whole.jpg",
    }  # fmt: skip
    assert {(image.mode, image.size) for image in decoded.values() if image} == {("RGB", (64, 64))}
    assert decoded["sixteen.png"].getpixel((0, 0))[0] == round(30000 / 65535 * 255)
    for start in (
        "cut.jpg: it cannot be decoded",
        "text.png: it cannot be decoded",
        "dot.png: 1x1 is smaller",
        "good.png: the same picture as copy.png",
    ):
        assert f"Skipped {start}" in lines


def test_exif_orientation_decides_the_bucket(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture(120, 80).save(tmp_path / "turned.jpg", exif=exif)
    [example] = examples.read(data(tmp_path, instance_prompt="x"))
    assert example.size == (64, 96) and examples.decode(example).size == (64, 96)


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


def test_an_epoch_shows_every_picture_in_batches_of_one_size(tmp_path):
    for index in range(7):
        picture(120 if index < 3 else 80, 80, seed=index).save(tmp_path / f"{index}.png")
    read = examples.read(data(tmp_path, instance_prompt="x"))
    order = examples.Order(read, batch=2, seed=5)
    epochs = [[order[epoch * order.per_epoch + place] for place in range(order.per_epoch)] for epoch in (0, 1)]
    for batches in epochs:
        assert {example.id for batch in batches for example in batch} == {example.id for example in read}
        assert all(len(batch) == 2 and len({example.size for example in batch}) == 1 for batch in batches)
    assert epochs[0] != epochs[1]
    assert examples.Order(read, batch=2, seed=5)[5] == order[5]


def test_a_folder_that_is_not_there_is_not_sought_on_the_hub(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere here"):
        examples.read(data(tmp_path / "nowhere"))

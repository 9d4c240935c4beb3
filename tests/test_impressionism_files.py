"""Files from outside as people's cameras and programs write them, and writing that never leaves half a file."""

import errno
import io
import json
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from impressionism.errors import UserError, explain_disk
from impressionism.files import (
    clean_text,
    data_url,
    left_out_line,
    open_picture,
    picture_size,
    pictures_in,
    read_picture,
    read_text,
    thumbnail,
    write_atomic,
    write_folder,
)


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), "red")
    image.paste("blue", (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixel(image: Image.Image) -> tuple[int, ...]:
    return image.getpixel((0, 0))  # type: ignore[return-value]


def phone_exif() -> bytes:
    """Orientation 6, and the exposure bias -2/0 that some phones write."""
    main = struct.pack("<HHHII", 2, 0x0112, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 38) + bytes(4)
    inner = struct.pack("<HHHII", 1, 0x9204, 10, 1, 56) + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + main + inner + struct.pack("<ii", -2, 0)


def adobe_rgb() -> bytes:
    """A profile with Adobe RGB's primaries and gamma 2.2."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 6) + b"wide\0\0" + bytes(78), b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249), b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087), b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", 128 + len(table + body), b"test", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    white = b"".join(struct.pack(">i", round(value * 65536)) for value in (0.9642, 1.0, 0.8249))
    return (head + bytes(12) + b"acsp" + bytes(28) + white).ljust(128, b"\0") + table + body


# ---- Pictures


def test_a_phones_photograph_with_a_damaged_exif_entry_is_upright(tmp_path: Path) -> None:
    (tmp_path / "phone.jpg").write_bytes(encoded(photo(), "jpeg", quality=95, exif=phone_exif()))
    picture = read_picture(tmp_path / "phone.jpg")
    assert picture.size == picture_size(tmp_path / "phone.jpg") == (48, 64)
    red, _, blue = picture.getpixel((24, 4))  # type: ignore[misc] # left is up when it is turned by 90°
    assert red > 200 > 50 > blue
    small = read_picture(tmp_path / "phone.jpg", max_side=16)
    assert small.size == (12, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_read_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(io.BytesIO(encoded(photo(), exif=exif))) as stored:
        assert read_picture(encoded(photo(), exif=exif)).tobytes() == ImageOps.exif_transpose(stored).tobytes()


def test_whatever_a_decoder_raises_becomes_a_sentence_with_the_files_name(tmp_path: Path) -> None:
    for kind in ("avif", "png", "jpeg", "webp", "tiff", "gif", "heif"):
        whole = read_and_encode(kind)
        for damage in (whole[: len(whole) // 2], whole[:60] + bytes(40) + whole[100:], whole[:30], b"", b"<html>"):
            file = tmp_path / f"damaged.{kind}"
            file.write_bytes(damage)
            try:
                read_picture(file)
            except UserError as error:
                assert str(file) in str(error) and "\n" not in str(error)


def read_and_encode(kind: str) -> bytes:
    if kind == "heif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    return encoded(Image.effect_noise((120, 90), 60).convert("RGB"), kind)


def test_every_suffix_of_a_picture_is_read_and_scaled(tmp_path: Path) -> None:
    kinds = {"avif": "avif", "heif": "heic", "bmp": "bmp", "gif": "gif", "jpeg": "jpg", "tiff": "tif"}
    for kind, suffix in kinds.items():
        if kind == "heif":
            pytest.importorskip("pillow_heif").register_heif_opener()
        (tmp_path / f"a.{suffix}").write_bytes(encoded(photo(), kind))
    pictures, left_out = pictures_in(tmp_path)
    assert len(pictures) == 6 and not left_out
    for file in pictures:
        picture = thumbnail(file, 32)
        red, green, blue = picture.getpixel((2, 2))  # type: ignore[misc]
        assert picture.mode == "RGB" and picture.size == (32, 24) and red > 230 and green < 30 and blue < 40


def test_sixteen_bits_and_floats_are_scaled_by_their_types_range(tmp_path: Path) -> None:
    grey = np.asarray(Image.effect_noise((32, 32), 60))
    eight = read_picture(encoded(Image.fromarray(grey))).tobytes()
    assert read_picture(encoded(Image.fromarray(grey.astype(np.uint16) * 257))).tobytes() == eight
    assert read_picture(Image.fromarray(grey.astype(np.uint16) * 257)).tobytes() == eight
    for bit_depth in (np.uint16(32768), np.float32(0.5)):
        kind = "tiff" if bit_depth.dtype == np.float32 else "png"
        assert pixel(read_picture(encoded(Image.fromarray(np.full((8, 8), bit_depth)), kind))) == (128, 128, 128)
    dark = np.full((8, 8), 200, np.uint16)  # a dark picture is not stretched
    assert pixel(read_picture(encoded(Image.fromarray(dark)))) == (1, 1, 1)
    broken = np.full((8, 8), np.nan, np.float32)
    assert pixel(read_picture(encoded(Image.fromarray(broken), "tiff"))) == (0, 0, 0)


def test_colour_profiles_are_applied_and_damaged_ones_ignored() -> None:
    green = Image.new("RGB", (8, 8), (40, 200, 60))
    picture = read_picture(encoded(green, icc_profile=adobe_rgb()))
    assert np.abs(np.array(pixel(picture)) - (0, 201, 37)).max() <= 2
    assert "icc_profile" not in picture.info
    seen = green.convert("RGBA")
    assert pixel(read_picture(encoded(seen, icc_profile=adobe_rgb()))) == pixel(picture)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", adobe_rgb()[:140]):
        assert pixel(read_picture(encoded(green, icc_profile=profile))) == (40, 200, 60)


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert pixel(read_picture(encoded(clear))) == (255, 255, 255)
    half = Image.new("LA", (8, 8), (0, 128))
    assert pixel(read_picture(encoded(half))) == (127, 127, 127)
    indexed = Image.new("RGB", (8, 8), "red").quantize(2)
    assert pixel(read_picture(encoded(indexed, transparency=indexed.getpixel((0, 0))))) == (255, 255, 255)


def test_other_programs_long_text_is_no_obstacle_and_ours_is_kept(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"".join(b"\0" + bytes((200, 60, 40)) * 30 for _ in range(30)))
    workflow = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2_000_000))
    text = chunk(b"tEXt", b"impressionism\0{}")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 30, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + workflow + text + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    picture = read_picture(tmp_path / "a.png")
    assert pixel(picture) == (200, 60, 40) and picture.info["impressionism"] == "{}"


def test_strips_and_giants_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "strip.png").write_bytes(encoded(Image.new("RGB", (3, 2000))))
    (tmp_path / "giant.png").write_bytes(encoded(Image.new("1", (14_000, 14_000))))
    for name, sentence in (("strip.png", "3 x 2000 pixels is too narrow"), ("giant.png", "more than 179 million")):
        for read in (read_picture, picture_size):
            with pytest.raises(UserError, match=f"{name}.*{sentence}"):
                read(tmp_path / name)
    (tmp_path / "scroll.png").write_bytes(encoded(Image.new("RGB", (40, 1000))))
    assert thumbnail(tmp_path / "scroll.png", 100).size == (4, 100)


def test_what_is_no_file_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait forever
    for name in ("none.png", "pipe.png", "."):
        with pytest.raises(UserError, match="There is no file"):
            read_picture(tmp_path / name)
    with pytest.raises(UserError, match=r"The picture cannot be read as a picture: it is no PNG"):
        read_picture(b"text")
    with pytest.raises(UserError, match=r"row 7 cannot be read"):
        read_picture(b"text", name="row 7")


def test_a_picture_keeps_its_metadata_for_those_who_ask(tmp_path: Path) -> None:
    with open_picture(encoded(photo(), "jpeg", exif=phone_exif(), icc_profile=adobe_rgb())) as opened:
        assert opened.format == "JPEG" and opened.info["icc_profile"] and opened.size == (64, 48)
    assert data_url(photo(), "png").startswith("data:image/png;base64,iVBOR")


# ---- Folders


def test_what_systems_leave_in_folders_is_no_picture_and_what_is_not_read_is_told(tmp_path: Path) -> None:
    for name in ("b.png", "A.JPG", "inner/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(photo()))
    litter = ("._b.png", ".ipynb_checkpoints/b.png", "__MACOSX/b.png", "@eaDir/b.png", "Thumbs.db", ".hidden/x/d.png")
    for name in litter:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(encoded(photo()))
    assert pictures_in(tmp_path) == ([tmp_path / "A.JPG", tmp_path / "b.png", tmp_path / "inner/c.webp"], {})
    assert left_out_line({}) is None
    for name in ("d.jxl", "e.psd", "b.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "f.png").mkdir()
    os.mkfifo(tmp_path / "g.png")
    left_out = pictures_in(tmp_path)[1]
    assert left_out.pop(tmp_path / "b.txt")  # a caption that somebody uses
    assert left_out_line(left_out) == "3 files were left out: .jxl, .psd cannot be read; g.png no file."


def test_a_hidden_folder_that_is_named_is_searched(tmp_path: Path) -> None:
    (tmp_path / ".pictures").mkdir()
    (tmp_path / ".pictures" / "a.png").write_bytes(encoded(photo()))
    assert len(pictures_in(tmp_path / ".pictures")[0]) == 1


# ---- Text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_in_the_usual_encodings_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("a boat by mntp,\r\nau café".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "a boat by mntp,\nau café"


@pytest.mark.parametrize(
    "content", ["睡蓮の池".encode("shift-jis"), "лодка".encode("cp1251"), b"\xff\xd8\xff\xe0\0\x10JFIF"]
)
def test_bytes_in_no_known_encoding_are_refused_by_their_files_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt is in no encoding that is known here; save it again as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_text_from_outside_is_made_encodable() -> None:
    assert clean_text(json.loads(r'"a boat \ud83d"')) == "a boat"
    assert clean_text("\ud83d\ude00 \0ok\udcff\n") == "😀 ok"
    assert clean_text("a\tb\nc") == "a\tb\nc"


# ---- Writing


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = write_atomic(tmp_path / "new" / "a.txt", "old\n", durable=True)
    (tmp_path / "link").symlink_to(file)

    def fails(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_atomic(file, fails)
    assert file.read_text() == "old\n" and [path.name for path in file.parent.iterdir()] == ["a.txt"]
    write_atomic(tmp_path / "link", b"new")
    assert file.read_bytes() == b"new" and (tmp_path / "link").is_symlink()


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with write_folder(tmp_path / "pages", durable=True) as folder:
        (folder / "1").write_text("one")
    with pytest.raises(RuntimeError), write_folder(tmp_path / "pages") as folder:
        (folder / "2").write_text("two")
        raise RuntimeError
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["1"]
    with write_folder(tmp_path / "pages") as folder:
        (folder / "3").write_text("three")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["pages", "pages/3"]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.symlink_to("/dev/full")  # where every write finds the disk full
        path.write_bytes(bytes(100_000))

    with pytest.raises(UserError, match="weights cannot be written, because the disk is full: make room"):
        write_atomic(tmp_path / "weights", write)
    assert not list(tmp_path.iterdir())
    message = "Error while serializing: I/O error: No space left on device (os error 28)"  # safetensors'
    assert "disk is full" in (explain_disk(RuntimeError(message)) or "")


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="because a part of its path is a file, not a folder"):
        write_atomic(tmp_path / "file" / "a.txt", "")


def test_a_disk_that_cannot_sync_folders_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.fsync

    def fsync(descriptor: int) -> None:  # as some network and FUSE disks answer
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert write_atomic(tmp_path / "a", "kept", durable=True).read_text() == "kept"

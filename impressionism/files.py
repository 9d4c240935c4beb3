"""Files that come in and go out: one reader of pictures and of text for every room, and one way to write.

Pictures come from cameras, scanners and other programs, so a decoder may raise anything. `read_picture` returns an
upright sRGB picture or raises a UserError that names the file. `write_atomic` never leaves half a file behind.
"""

import base64
import codecs
import contextlib
import errno
import functools
import io
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from impressionism.errors import UserError, explain_disk

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile

PICTURE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # and HEIF; never EPS, which runs Ghostscript
MAX_PIXELS = 178_956_970  # where Pillow speaks of a decompression bomb
MAX_ASPECT = 50  # long side : short side; scaling a 3 x 2000 strip to 256 pixels would make 170,000 of its length

Source = Path | str | bytes | BinaryIO | Image.Image

# Other programs' PNGs carry workflows of several megabytes as compressed text; Pillow's limit is 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 32 * 2**20
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is where we refuse


# ---- Reading pictures


def read_picture(
    source: Source, *, max_side: int | None = None, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A picture as 8-bit sRGB, mode "RGB": upright, its colour profile applied, on white where it is transparent.

    16-bit and float values are scaled by their type's range. An animation gives its first frame. `info` keeps the
    file's text and nothing else, so that saving the result cannot apply a profile or a rotation twice.

    source: a path, the file's bytes, a binary file, or a picture. max_side: scale down to this many pixels at most.
    name: how messages call a source that is no path. max_pixels: of the file, which is refused undecoded where it has
    more. Raises UserError for what cannot be read.
    """
    with open_picture(source, name=name, max_pixels=max_pixels) as image:
        if max_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(image.mode, (max_side, max_side))  # decodes at 1/2, 1/4 or 1/8
        image.load()
        text = {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
        result = _upright(_to_rgb(image), image)
        if max_side is not None:
            result.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    result.info = text
    return result


@contextlib.contextmanager
def open_picture(source: Source, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The picture as its file has it, opened but not decoded: for its size, format and metadata.

    Whatever a decoder raises inside the block becomes a UserError that names the file.
    """
    called = name or (str(source) if isinstance(source, Path | str) else "The picture")
    try:
        if isinstance(source, Image.Image):
            image, opened = source.copy(), source
            image.format = source.format
            image.info = dict(source.info)
        else:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            if not isinstance(file, Path | str):
                file.seek(0)
            elif not Path(file).is_file():  # a folder, a device, a pipe that nobody writes to
                raise FileNotFoundError(errno.ENOENT, "no such file", str(file))
            image = opened = Image.open(file, formats=_formats())
        try:
            _check_size(image.size, called, max_pixels)
            yield image
        finally:
            if opened is not source:
                opened.close()
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"There is no file {called}.") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{called} cannot be read as a picture: it is no PNG, JPEG, WebP, AVIF, HEIC, TIFF, GIF or BMP."
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{called} cannot be used: it has more than {max_pixels / 1e6:.0f} million pixels.") from error
    except MemoryError as error:
        raise UserError(f"{called} cannot be read as a picture: it does not fit into this machine's memory.") from error
    except Exception as error:  # decoders raise anything: struct.error, RuntimeError, SyntaxError, zlib.error …
        if disk := explain_disk(error, called):
            raise UserError(disk) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{called} cannot be read as a picture: it is damaged ({reason[:200]}).") from error


def picture_size(source: Source, *, name: str | None = None) -> tuple[int, int]:
    """(width, height) of the upright picture, from the file's header alone. Raises UserError."""
    with open_picture(source, name=name) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def _check_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise UserError(
            f"{name} cannot be used: its {width} x {height} pixels are more than {max_pixels / 1e6:.0f} million; "
            "make it smaller."
        )
    if max(size) > MAX_ASPECT * min(size):
        raise UserError(f"{name} cannot be used: {width} x {height} pixels is too narrow for a picture; crop it.")


@functools.cache
def _formats() -> tuple[str, ...]:
    """With HEIC and HEIF, as iPhones write them, where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


def _orientation(image: Image.Image) -> int:
    """1 to 8, from EXIF; 1 where EXIF is damaged, which is no reason to lose a photograph."""
    try:
        value = image.getexif().get(0x0112, 1)
        return value if value in range(1, 9) else 1
    except Exception:
        return 1


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """pixels as image's EXIF turns them; Pillow's exif_transpose also rewrites EXIF and fails on damaged entries."""
    turn = _TURNS.get(_orientation(image))
    return pixels.transpose(turn) if turn is not None else pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if not image.has_transparency_data:
        return _to_srgb(image.convert("RGB") if image.mode in ("P", "1") else image, profile)
    image = image.convert("RGBA")
    colours = _to_srgb(image.convert("RGB"), profile)
    result = Image.new("RGB", image.size, "white")
    result.paste(colours, mask=image.getchannel("A"))
    return result


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey by its type's range, so that mid grey is 128: 16 bits have 65535 as white, floats 1.

    A file of floats or 32-bit integers does not say its range; values above 1, or above 255, tell that it is larger.
    """
    import numpy as np

    levels = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    top = float(levels.max(initial=0.0))
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "F":
        white = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else 65535.0
    else:
        white = 255.0 if top <= 255.0 else 65535.0 if top <= 65535.0 else 2.0**31 - 1
    return Image.fromarray(np.floor(levels / white * 255 + 0.5).clip(0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Through the embedded colour profile to sRGB. A damaged profile, or another colour space's, is ignored."""
    if icc:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if not _is_srgb(profile) and _SPACES.get(profile.profile.xcolor_space.strip()) == image.mode:
                converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
                if converted is not None:
                    return converted
    return image.convert("RGB")


_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}


def _is_srgb(profile: "ImageCmsProfile") -> bool:
    return "srgb" in (profile.profile.profile_description or "").lower()


# ---- Folders of pictures

# What operating systems, network disks and notebooks leave in folders.
_LITTER = {"__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_LITTER_FILES = {"Thumbs.db", "desktop.ini", "Icon\r"}


def pictures_in(folder: Path | str) -> tuple[list[Path], dict[Path, str]]:
    """(pictures, left out) of a folder and the folders in it, both sorted.

    Pictures are told by their suffix. Hidden files and folders are in neither. Left out is every other file, with
    the reason; take those that you use out of it, such as captions, and tell the rest with `left_out_line`.
    """
    pictures: list[Path] = []
    left_out: dict[Path, str] = {}

    def unreadable(error: OSError) -> None:
        left_out[Path(error.filename)] = "cannot be opened"

    for here, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LITTER)
        for name in files:
            path = Path(here, name)
            if name.startswith(".") or name in _LITTER_FILES:
                continue
            if reason := _why_no_picture(path):
                left_out[path] = reason
            else:
                pictures.append(path)
    return sorted(pictures), dict(sorted(left_out.items()))


_TEXT = {".txt", ".caption", ".csv", ".tsv", ".json", ".jsonl", ".md", ".yaml", ".yml", ".html", ".parquet", ".arrow"}


def _why_no_picture(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        return "not used" if suffix in _TEXT or not suffix else "cannot be read"
    if not path.is_file():
        return "no file"
    if clean_text(str(path)) != str(path).strip():
        return "name is not UTF-8"
    return None


def left_out_line(left_out: dict[Path, str]) -> str | None:
    """One line such as "2 files were left out: .jxl, .psd cannot be read."; None where nothing was left out."""
    if not left_out:
        return None
    reasons: dict[str, set[str]] = {}
    for path, why in left_out.items():
        by_suffix = why in ("cannot be read", "not used") and path.suffix
        reasons.setdefault(why, set()).add(path.suffix.lower() if by_suffix else clean_text(path.name))
    told = [f"{', '.join(sorted(names)[:5])}{' …' * (len(names) > 5)} {why}" for why, names in reasons.items()]
    count = "1 file was" if len(left_out) == 1 else f"{len(left_out):,} files were"
    return f"{count} left out: {'; '.join(told)}."


# ---- Pictures that go out


def thumbnail(source: Source, side: int) -> Image.Image:
    """The picture scaled down until neither side is longer than `side` pixels."""
    return read_picture(source, max_side=side)


def data_url(picture: Image.Image | bytes, kind: str = "webp", **options: Any) -> str:
    """A picture inside a page. kind: webp, jpeg or png, which bytes are in already; options: quality …"""
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.save(file, kind, **options)
        picture = file.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def cover(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled until it just covers this size, and cropped to the middle."""
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


# ---- Text


def clean_text(text: str) -> str:
    """Text from outside, made encodable: halves of characters and control characters go, and white space around it."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")  # joins halves that belong together
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]", "", text).strip()


_MARKS = (  # UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def read_text(path: Path | str) -> str:
    """A text file in UTF-8, UTF-16, UTF-32 or Western European (Windows-1252), with LF line ends.

    Raises UserError, naming the file, for one that cannot be opened and for bytes in no encoding that is known.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(explain_disk(error, path) or f"{path} cannot be read ({error.strerror}).") from error
    text = _decoded(content)
    if text is None:
        raise UserError(f"{path} is in no encoding that is known here; save it again as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decoded(content: bytes) -> str | None:
    with contextlib.suppress(UnicodeDecodeError):
        for mark, encoding in _MARKS:
            if content.startswith(mark):
                return content.decode(encoding)
        if b"\0" not in content:
            return content.decode("utf-8")
        # UTF-16 without its mark: text in Latin letters has every second byte 0.
        for encoding, zeros in (("utf-16-le", content[1::2]), ("utf-16-be", content[::2])):
            text = content.decode(encoding)
            if zeros.count(0) > 0.7 * len(zeros) and "\0" not in text:
                return text
        return None
    with contextlib.suppress(UnicodeDecodeError):
        text = content.decode("cp1252")
        # Nearly all bytes decode so; Western words have a few accented letters and typographic marks among plain ones.
        marked = re.findall(r"[^\x00-\x7f]", text)
        letters = len(re.findall(r"[^\W\d_]", text))
        western = re.fullmatch(r"[À-ÖØ-öø-ÿŒœŠšŽžŸ‘’“”–—…•«»¡¿€£©®°ªº·§\xa0]*", "".join(marked))
        if "\0" not in text and western and len(marked) <= 0.3 * letters:
            return text
    return None


# ---- Writing


def write_atomic(path: Path | str, content: str | bytes | Callable[[Path], Any], *, durable: bool = False) -> Path:
    """Write a file so that its name holds the old content or all of the new; folders on the way are made.

    content: text (as UTF-8), bytes, or a function that writes to the path it is given. durable: on the disk before
    this returns, even if the power fails next. Raises UserError for a full, read-only or otherwise failing disk.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            partial.write_text(content, encoding="utf-8", newline="\n")
        elif isinstance(content, bytes):
            partial.write_bytes(content)
        else:
            content(partial)
        if durable:
            sync(partial)
        partial.replace(path)
        if durable:
            sync(path.parent)
    except Exception as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, UserError) and (sentence := explain_disk(error, path)):
            raise UserError(sentence) from error
        raise
    return path


@contextlib.contextmanager
def write_folder(path: Path | str, *, durable: bool = False) -> Iterator[Path]:
    """Write a folder as a whole: yields a new folder, which takes the place of `path` when the block is through.

    durable and errors as for `write_atomic`; if the block raises, `path` is as before.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if durable:
            for written in (*(file for file in partial.rglob("*") if file.is_file()), partial):
                sync(written)
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
        if durable:
            sync(path.parent)
    except Exception as error:
        if not isinstance(error, UserError) and (sentence := explain_disk(error, path)):
            raise UserError(sentence) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the disk keep what was written to a file or folder; some network disks cannot do that for folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if not path.is_dir():
            raise
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)

"""What a safetensors file says of itself, in the ModelSpec's keys (github.com/Stability-AI/ModelSpec).

The file is read and written here by its header alone: eight bytes with its length, JSON, then the tensors' bytes.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from impressionism.errors import UserError
from impressionism.files import write_atomic

MUST = ("sai_model_spec", "architecture", "implementation", "title")
LARGEST_HEADER = 100_000_000  # bytes, as the format says


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """The header, with its `__metadata__`, and where the tensors begin; UserError for what is no such file."""
    size, header = file.stat().st_size, None
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if 0 < length <= min(size - 8, LARGEST_HEADER):
            try:
                header = json.loads(stream.read(length))
            except ValueError:
                header = None
    if not isinstance(header, dict):
        raise UserError(f"{file.name} is no safetensors file, whatever its name says.")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if not ends or 8 + length + max(ends) != size:
        raise UserError(f"{file.name} is cut off, or holds nothing: save it again.")
    return header, 8 + length


def metadata_of(file: Path) -> dict[str, str]:
    return read_header(file)[0].get("__metadata__", {})


def hash_of(file: Path) -> str:
    """Of the tensors' bytes, as `modelspec.hash_sha256` asks."""
    with file.open("rb") as stream:
        stream.seek(read_header(file)[1])
        return f"0x{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def relabel(file: Path, **facts: str) -> None:
    """Lays ModelSpec keys over those of the file; its tensors stay as they are, and the same facts give the same
    bytes."""
    header, start = read_header(file)
    known = header.pop("__metadata__", {})
    metadata = known | {f"modelspec.{key}": value for key, value in facts.items()}
    if metadata == known:
        return
    encoded = json.dumps({"__metadata__": dict(sorted(metadata.items())), **header}, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors stay aligned
    write_atomic(file, struct.pack("<Q", len(encoded)) + encoded + file.read_bytes()[start:])

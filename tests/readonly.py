"""A folder that cannot be written, also for root, whom permissions do not stop otherwise."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CAP_DAC_OVERRIDE = 1 << 1  # root's power to write in spite of permissions
VERSION_3 = 0x20080522  # of Linux's interface, see capset(2)


class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]  # ctypes wants a list


class Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Inside the block this thread, and those that it starts, cannot write into the folder."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]
    for path in folders:
        path.chmod(0o555)
    libc, header, sets = ctypes.CDLL(None, use_errno=True), Header(VERSION_3, 0), (Sets * 2)()
    is_root = os.geteuid() == 0
    if is_root:
        assert libc.capget(ctypes.byref(header), sets) == 0
        sets[0].effective &= ~CAP_DAC_OVERRIDE
        assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        if is_root:
            sets[0].effective |= CAP_DAC_OVERRIDE
            assert libc.capset(ctypes.byref(header), sets) == 0
        for path in folders:
            path.chmod(0o755)

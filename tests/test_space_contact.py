"""The contact sheet shows every picture whole, each over its own label."""

import numpy as np
import pytest
from PIL import Image

from space.contact import LARGEST, columns_for, contact_sheet


def plain(colours: list[str], size: tuple[int, int]) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in colours]


def box_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    assert len(rows), f"no {colour} on the sheet"
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


def test_every_picture_is_on_the_sheet_in_reading_order():
    sheet = contact_sheet(plain(["#f00", "#0f0", "#00f"], (64, 48)), ["one", "two", "three"], "a caption")
    boxes = [box_of(sheet, colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert [(width, height) for *_, width, height in boxes] == [(64, 48)] * 3
    assert [left for left, *_ in boxes] == sorted(left for left, *_ in boxes)


def test_each_label_stands_under_its_picture_and_changes_nothing_else():
    blank = contact_sheet(plain(["#f00", "#00f"], (96, 96)), ["", ""], "")
    labelled = contact_sheet(plain(["#f00", "#00f"], (96, 96)), ["", "strength 1"], "")
    left, top, width, height = box_of(labelled, (0, 0, 255))
    rows, columns = np.nonzero((np.asarray(blank) != np.asarray(labelled)).any(axis=-1))
    assert len(rows)
    assert rows.min() > top + height - 1
    assert left <= columns.min() <= columns.max() < left + width


def test_a_large_picture_is_reduced_and_a_long_caption_is_cut():
    sheet = contact_sheet(plain(["#f00"], (1024, 2048)), ["strength 1"], "a very long prompt " * 200)
    assert box_of(sheet, (255, 0, 0))[2:] == (LARGEST // 2, LARGEST)
    assert sheet.height < 2 * LARGEST


@pytest.mark.parametrize(("pictures", "columns"), [(1, 1), (2, 2), (4, 4), (5, 3), (6, 3), (7, 4)])
def test_the_rows_are_as_even_as_can_be(pictures: int, columns: int):
    assert columns_for(pictures) == columns

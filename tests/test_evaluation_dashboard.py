"""The report in a real browser, from a file: no server, no network."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pandas
import pytest
from galleries import make_gallery, make_paintings
from playwright.sync_api import Browser, Page

from evaluation import charts, dashboard
from evaluation.__main__ import main
from evaluation.candidates import read_scores
from impressionism.records import Estimate, Metric


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard")
    run = make_gallery(folder / "runs" / "strokes", prompts=4)
    real, training = make_paintings(folder / "real", 12), make_paintings(folder / "training", 6, first=300)
    assert main(["score", str(run), "--real", str(real), "--training", str(training), "--features"]) == 0
    assert main(["dashboard", str(run)]) == 0
    return run


@pytest.fixture
def page(chromium: Browser, run: Path) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(f"file://{run / 'report.html'}")
    yield page
    context.close()
    assert not wrong


def test_the_file_is_whole_and_asks_nothing_of_the_network(run: Path):
    html = (run / "report.html").read_text()
    assert "default-src 'none'" in html
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", html)
    assert not re.search(r"\$\w+", html.split("<script>")[0])
    assert len(html) < 15_000_000 / 240 * 36


def test_another_pair_a_side_and_the_heat_map_are_a_key_away(page: Page):
    first = page.locator("#caption").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#caption").inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#caption").inner_text() == first
    page.keyboard.press("b")
    assert page.locator("#slider").input_value() == "100"
    page.keyboard.press("a")
    assert page.evaluate("getComputedStyle(document.getElementById('frame')).getPropertyValue('--at')") == "0%"
    assert not page.locator("#heat-after").is_visible()
    page.keyboard.press("h")
    assert page.locator("#heat-after").is_visible()


def test_the_slider_shows_as_much_of_the_base_as_it_says(page: Page):
    page.locator("#slider").fill("30")
    box = page.locator("#frame").bounding_box()
    seam = page.locator("#seam").bounding_box()
    assert box and seam
    assert (seam["x"] - box["x"]) / box["width"] == pytest.approx(0.3, abs=0.02)


def test_worst_stand_beside_best_and_open_on_a_click(page: Page, run: Path):
    scores = read_scores(run)
    for side, files in (("best", scores.best), ("worst", scores.worst)):
        assert page.locator(f"#{side} button").count() == len(files)
        page.locator(f"#{side} button").first.click()
        assert files[0] in page.locator("#facts").inner_text()


def test_the_grid_is_filtered_and_sorted(page: Page):
    rows = page.locator("#pictures tbody tr")
    assert rows.count() == 4
    assert page.locator("#pictures thead th").all_inner_texts() == [
        "", "base", "base-styled", "adapter 0.5", "adapter 1", "adapter-styled 1"
    ]  # fmt: skip
    page.select_option("[name=genre]", "urban")
    assert rows.count() == 2
    page.locator("[name=column][value=base-styled]").uncheck()
    assert page.locator("#pictures thead th").count() == 5
    page.select_option("[name=genre]", "")
    page.select_option("[name=order]", "least")
    gains = [
        float(text.split("·")[1].replace("−", "-")) for text in page.locator("#pictures th small").all_inner_texts()
    ]
    assert gains == sorted(gains)


def test_an_address_leads_to_a_pair(chromium: Browser, run: Path):
    page = chromium.new_page()
    page.goto(f"file://{run / 'report.html'}#pair=p2/2")
    assert "“scene 2”, seed 2" in page.locator("#caption").inner_text()
    page.close()


def test_every_picture_has_words_for_those_who_do_not_see_it(page: Page):
    assert (
        page.evaluate("[...document.images].filter((i) => i.src && !i.classList.contains('heat') && !i.alt).length")
        == 0
    )
    assert page.evaluate("[...document.images].filter((i) => i.complete && i.src && !i.naturalWidth).length") == 0
    assert page.evaluate("document.querySelectorAll('[role=img]:not([aria-label])').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_hangs_over_the_edge_of_a_phone(chromium: Browser, run: Path, scheme):
    context = chromium.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page = context.new_page()
    page.goto(f"file://{run / 'report.html'}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_the_data_can_be_taken_away(page: Page, run: Path, tmp_path: Path):
    for name in ("scores.json", "pictures.csv", "pictures.parquet"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        download.value.save_as(tmp_path / name)
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads((run / "scores.json").read_text())
    table = pandas.read_parquet(tmp_path / "pictures.parquet")
    assert len(table) == 36
    assert list(pandas.read_csv(tmp_path / "pictures.csv")["file"]) == list(table["file"])


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, n=9)


@pytest.mark.parametrize(
    ("better", "difference", "closed", "colour"),
    [
        ("higher", (1, 0.5, 2), None, "good"),
        ("higher", (-1, -2, -0.5), None, "bad"),
        ("lower", (-1, -2, -0.5), None, "good"),
        ("lower", (1, 0.5, 2), None, "bad"),
        ("higher", (1, -0.1, 2), None, ""),
        ("closer", (-1, -2, -0.5), (0.4, 0.2, 0.6), "good"),
        ("closer", (1, 0.5, 2), (-0.4, -0.6, -0.2), "bad"),
        ("closer", (1, 0.5, 2), (0.4, -0.1, 0.6), ""),
        ("closer", (1, 0.5, 2), (1.8, 1.5, 2.2), ""),
        ("closer", (1, 0.5, 2), (2.8, 2.5, 3.2), "bad"),
        ("closer", (1, 0.5, 2), None, ""),
    ],
)
def test_nothing_is_coloured_unless_its_interval_leaves_no_doubt(better, difference, closed, colour):
    row = Metric(name="index", question="style", better=better, adapter=estimate(1, 0, 2),
                 difference=estimate(*difference),
                 gap_closed=estimate(*closed) if closed else None)  # fmt: skip
    assert dashboard.effect(row) == colour
    coloured = re.findall('class="(good|bad)"', dashboard.table_row(row))
    assert coloured == ([colour] if colour else [])


def test_large_pictures_are_made_smaller_until_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from PIL import Image

    Image.effect_noise((1024, 1024), 90).convert("RGB").save(tmp_path / "one.png")
    monkeypatch.setattr(dashboard, "BUDGET", 30_000)
    size = dashboard.fitting([tmp_path / "one.png"])
    assert size in dashboard.SIZES[1:]
    encoded = dashboard.webp(tmp_path / "one.png", size).split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).width == size[0]


def test_numbers_keep_three_digits_that_count():
    assert [charts.number(value) for value in (0, 0.12345, 12.345, 123.4, 4567.8, -0.5)] == [
        "0", "0.123", "12.3", "123", "4568", "-0.500"
    ]  # fmt: skip

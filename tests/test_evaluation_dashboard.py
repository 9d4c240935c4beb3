"""The report in a real browser, from a file: no server, no network, no script."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from galleries import make_gallery, make_paintings
from playwright.sync_api import Browser, Page

from evaluation import dashboard
from evaluation.__main__ import main
from evaluation.exhibits import read_scores
from impressionism import estimates
from impressionism.errors import UserError
from impressionism.records import Estimate, Metric


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    run = make_gallery(folder / "runs" / "strokes", prompts=4)
    real, training = make_paintings(folder / "real", 12), make_paintings(folder / "training", 6, first=300)
    assert main(["score", str(run), "--real", str(real), "--training", str(training), "--features"]) == 0
    assert main(["dashboard", str(run)]) == 0
    return run


@pytest.fixture
def page(chromium: Browser, run: Path) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(f"file://{run / 'report.html'}")
    yield page
    context.close()
    assert not wrong


def test_the_file_is_whole_and_asks_nothing_of_the_network(run: Path):
    html = (run / "report.html").read_text()
    assert "default-src 'none'" in html and "<script" not in html
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", html)
    assert len(html) < 15_000_000 / 240 * 36


def test_the_first_screen_answers_whether_at_which_strength_at_what_cost_and_against_words(page: Page, run: Path):
    scores = read_scores(run)
    assert page.locator("#verdict").inner_text() == scores.verdict
    answers = page.locator(".answers")
    box = answers.bounding_box()
    assert box and box["y"] + box["height"] < 900
    for words in ("Recommended strength", "Gap closed", "Scene kept", "Variety", "Copies", "By words alone"):
        assert words in answers.inner_text()


def test_rows_that_were_not_computed_are_folded_away_with_their_reason(page: Page):
    folded = page.locator("#not-computed")
    assert not folded.locator("li").first.is_visible()
    folded.locator("summary").click()
    assert "not asked for (--features)" in folded.inner_text()


def test_every_picture_loads_and_is_described_and_the_page_fits_a_phone(page: Page):
    page.locator("#pictures summary").click()
    assert page.evaluate("[...document.images].filter((image) => !image.alt).length") == 0
    page.evaluate("Promise.all([...document.images].map((image) => (image.loading = 'eager', image.decode())))")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def row(value: float, reach: float, **more) -> Metric:
    estimate = Estimate(value=value, low=value - reach, high=value + reach, n=9)
    return Metric(name="x", question="style", difference=estimate, gap_closed=estimate, **more)


def test_colour_needs_certainty_and_an_effect_that_can_be_seen():
    assert dashboard.colour(row(0.6, 0.2, better="closer", p=0.01)) == "good"
    assert dashboard.colour(row(0.6, 0.2, better="closer", p=0.2)) == "", "Holm's p"
    assert dashboard.colour(row(0.05, 0.01, better="closer", p=0.01)) == "", "less than can be seen"
    assert dashboard.colour(row(-0.6, 0.2, better="closer", p=0.01)) == "bad"
    assert dashboard.colour(row(2.6, 0.2, better="closer", p=0.01)) == "bad", "overdone"
    assert dashboard.colour(row(0.6, 0.2, better="lower")) == "bad"
    likeness = row(-0.013, 0.01, better="lower", p=0.03)
    assert dashboard.colour(dataclasses.replace(likeness, name="layout-nearest")) == "", "sure, and too small"


def test_numbers_are_short_and_small_ps_are_bounds():
    written = [estimates.number(v) for v in (0, 0.01234, 1.5, -123.4, 12345.6)]
    assert written == ["0", "0.0123", "1.50", "−123", "12346"]
    assert [estimates.p_value(p) for p in (None, 0.0002, 0.04)] == ["", "≤ 0.001", "0.040"]
    small, wide = (
        Estimate(value=0.0022, low=0.0016, high=0.0033, n=9),
        Estimate(value=65.5, low=-59.6, high=69.7, n=9),
    )
    assert [estimates.interval(one).replace("\N{NO-BREAK SPACE}", " ") for one in (small, wide)] == [
        "0.0022 [0.0016, 0.0033]", "66 [−60, 70]",
    ]  # fmt: skip


def test_a_run_without_scores_is_told_how_to_get_them(tmp_path: Path):
    with pytest.raises(UserError, match="evaluation score"):
        dashboard.dashboard(tmp_path)

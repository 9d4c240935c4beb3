"""The page in a real browser: Debian's chromium, driven by playwright."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from impressionism import paint
from impressionism.pipeline import Painter
from space import app
from space.words import MINIATURE

WAIT = 30_000  # milliseconds; one core may be busy


@pytest.fixture(scope="module")
def address(tiny_painter: Painter) -> Iterator[str]:
    page = app.build(tiny_painter)
    yield app.launch(page, prevent_thread_lock=True, quiet=True)
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """One context for all pages, so that what Gradio serves is fetched once."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("there is no chromium on this machine; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_context(accept_downloads=True)
        browser.close()


@pytest.fixture
def page(browser: BrowserContext, address: str) -> Iterator[Page]:
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.get_by_role("button", name="Compare").wait_for()
    yield page
    page.close()


def few_steps(page: Page) -> None:
    page.get_by_text("Steps, guidance, size").click()
    page.get_by_label("number input for Steps").fill("2")
    page.get_by_label("Width").fill("64")
    page.get_by_label("Height").fill("64")
    page.get_by_label("Height").blur()


def test_a_prompt_is_painted_twice_and_both_pictures_can_be_downloaded(page: Page, tmp_path: Path):
    page.get_by_label("Prompt").fill("a windmill on a hill at sunset")
    few_steps(page)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#pair img")).to_have_count(2, timeout=WAIT)
    page.screenshot(path=tmp_path / "pair.png", full_page=True)

    recipes = {}
    for name, strength in (("Base model, PNG", 0), ("Impressionist, PNG", 1)):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).or_(page.get_by_role("button", name=name)).first.click()
        download.value.save_as(tmp_path / f"{strength}.png")
        assert re.search(rf"strength-{strength}\.png$", download.value.suggested_filename)
        recipes[strength] = paint.read_recipe(tmp_path / f"{strength}.png")
        assert recipes[strength].strength == strength
    assert recipes[0].sampling == recipes[1].sampling
    assert recipes[0].sampling.prompt == "a windmill on a hill at sunset"
    assert str(recipes[0].sampling.seed) == page.get_by_label("Seed", exact=True).input_value()

    shown = page.locator("#pair img").first.get_attribute("src")
    assert page.request.get(shown).body() in {(tmp_path / f"{s}.png").read_bytes() for s in (0, 1)}


def test_an_example_fills_the_fields(page: Page):
    prompt, shape, seed = MINIATURE.examples[3]
    page.get_by_role("button", name=prompt).click()
    expect(page.get_by_label("Prompt")).to_have_value(prompt)
    expect(page.get_by_label(shape)).to_be_checked()
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(seed))
    expect(page.get_by_label("New each time")).not_to_be_checked()
    page.get_by_text("Steps, guidance, size").click()
    expect(page.get_by_label("Height")).to_have_value(str(MINIATURE.sizes[shape][1]))


def test_the_sweep_and_the_repaint_show_their_pictures(page: Page, tmp_path: Path):
    few_steps(page)
    page.get_by_role("tab", name="Strength").click()
    page.get_by_role("button", name="Paint them all").click()
    expect(page.locator("#strengths .grid-container img")).to_have_count(4, timeout=WAIT)

    Image.effect_noise((80, 60), 50).convert("RGB").save(tmp_path / "photograph.jpg")
    page.get_by_role("tab", name="Repaint").click()
    page.locator("input[type=file]").set_input_files(tmp_path / "photograph.jpg")
    expect(page.get_by_label("Your photograph").or_(page.locator("#photograph img")).first).to_be_visible()
    page.get_by_role("button", name="Repaint", exact=True).click()
    expect(page.locator("#repainted .grid-container img")).to_have_count(3, timeout=WAIT)


def test_what_cannot_be_painted_is_said_on_the_page(page: Page):
    page.get_by_label("Prompt").fill(" ")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Say in the prompt what to paint.")).to_be_visible(timeout=WAIT)


def test_the_page_says_who_paints_and_what_it_knows(page: Page, tiny_painter: Painter):
    text = page.locator("body").inner_text()
    for said in (tiny_painter.about, "miniature", "a bowl of fruit", "under heavy clouds", "AI model"):
        assert said in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_hangs_over_the_edge_of_a_phone(browser: BrowserContext, address: str, theme: str):
    page = browser.new_page()
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{address}?__theme={theme}")
    page.get_by_role("button", name="Compare").wait_for(timeout=WAIT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()

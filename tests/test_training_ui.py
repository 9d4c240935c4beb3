"""The training page in a real browser, from dropped pictures to the upload that it would make."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from impressionism.names import WEIGHTS_FILE
from training import recipe as recipes
from training import ui

WAIT = 60_000  # milliseconds; the machine may be busy
SETTINGS = "\n".join([
    "data.resolution=[96x96]", "optimizer.train_batch_size=1", "optimizer.lr_warmup_steps=0", "preview.size=96x96",
    "preview.steps=1", "preview.every=2", "run.log_every=1", "log.report_to=none",
])  # fmt: skip


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Page]:
    blocks = ui.build(tmp_path / "adapters")
    address = ui.launch(blocks, tmp_path / "adapters", prevent_thread_lock=True, quiet=True)
    page = chromium.new_page()
    page.set_default_timeout(WAIT)
    page.goto(address)
    yield page
    page.close()
    blocks.close(verbose=False)


def test_it_goes_from_pictures_to_an_adapter_and_what_would_be_pushed(page: Page, tmp_path: Path) -> None:
    for index in range(3):
        Image.effect_noise((128, 128), 40 + index).convert("RGB").save(tmp_path / f"{index}.png")
    (tmp_path / "1.txt").write_text("a boat at dusk")
    (tmp_path / "broken.png").write_bytes(b"no picture")

    page.get_by_label("Name of the adapter").fill("boats")
    page.get_by_label("Name of the adapter").press("Enter")
    page.locator("input[type=file]").first.set_input_files(
        [tmp_path / name for name in ("0.png", "1.png", "2.png", "1.txt", "broken.png")]
    )
    expect(page.get_by_test_id("toast-body")).to_contain_text("broken.png", timeout=WAIT)
    expect(page.locator("#captions")).to_contain_text("a boat at dusk", timeout=WAIT)
    page.get_by_role("button", name="Save captions").click()

    page.get_by_role("tab", name="2 Plan").click()
    page.get_by_label("Recipe").fill("miniature")
    page.get_by_label("Recipe").press("Enter")
    page.get_by_label("Steps").fill("4")
    page.get_by_label("Prompts to preview").fill("a boat")
    page.get_by_label("Other settings").fill("optimizer.stps=3")
    page.get_by_role("button", name="Plan", exact=True).click()
    expect(page.get_by_test_id("toast-body").filter(has_text="did you mean steps?")).to_be_visible(timeout=WAIT)
    page.get_by_label("Other settings").fill(SETTINGS)
    page.get_by_role("button", name="Plan", exact=True).click()
    expect(page.get_by_text("On a rented GPU with 48 GB")).to_be_visible(timeout=WAIT)
    expect(page.get_by_text("while it trains")).to_be_visible(timeout=WAIT)
    expect(page.get_by_text("training/jobs/train.py miniature")).to_be_visible(timeout=WAIT)

    page.get_by_role("tab", name="3 Train").click()
    page.get_by_role("button", name="Train here").click()
    expect(page.locator("#state")).to_contain_text("Finished.", timeout=WAIT)
    folder = tmp_path / "adapters" / "boats"
    assert (folder / "run" / "adapter" / WEIGHTS_FILE).exists()
    trained = recipes.read(folder / "run" / "recipe.yaml")  # the same command goes on in a terminal
    assert trained.optimizer.steps == 4 and trained.model.base == "miniature"
    expect(page.locator("#losses img")).to_be_visible(timeout=WAIT)
    expect(page.locator("#sheet img")).to_be_visible(timeout=WAIT)

    page.wait_for_timeout(3000)
    page.get_by_role("tab", name="4 Publish").click()
    expect(page.locator("#latest img").first).to_be_visible(timeout=WAIT)
    page.get_by_role("button", name="Push to the Hub").click()
    expect(page.locator("#pushed")).to_contain_text("Nothing was sent (--dry-run).", timeout=WAIT)
    expect(page.locator("#pushed")).to_contain_text(WEIGHTS_FILE, timeout=WAIT)


def test_what_is_clicked_too_early_is_answered_with_the_step_that_is_missing(page: Page, tmp_path: Path) -> None:
    def says(sentence: str) -> None:
        toast = page.get_by_test_id("toast-body")
        expect(toast).to_contain_text(sentence, timeout=WAIT)
        page.get_by_test_id("toast-close").click()
        expect(toast).to_have_count(0)

    for tab, button, sentence in (
        ("1 Pictures", "Save captions", "Add pictures first"),
        ("1 Pictures", "Let a model write", "Add pictures first"),
        ("2 Plan", "Plan", "Add pictures first"),
        ("3 Train", "Train here", "Plan it first"),
        ("3 Train", "Stop", "not training"),
        ("4 Publish", "Push to the Hub", "Train the adapter first"),
    ):
        page.get_by_role("tab", name=tab).click()
        page.get_by_role("button", name=button).locator("visible=true").click()
        says(sentence)
    page.get_by_role("tab", name="1 Pictures").click()
    (tmp_path / "pond.txt").write_text("a pond at noon")
    page.locator("input[type=file]").first.set_input_files([tmp_path / "pond.txt"])
    says("pond.txt has no picture of the same name")
    Image.effect_noise((128, 128), 40).convert("RGB").save(tmp_path / "pond.png")
    page.locator("input[type=file]").first.set_input_files([tmp_path / "pond.png"])
    expect(page.locator("#captions")).to_contain_text("pond.png", timeout=WAIT)
    page.locator("input[type=file]").first.set_input_files([tmp_path / "pond.txt"])  # after its picture
    expect(page.locator("#captions")).to_contain_text("a pond at noon", timeout=WAIT)
    page.get_by_label("Name of the adapter").fill("my style")
    page.get_by_label("Name of the adapter").press("Enter")
    says("without spaces")
    page.wait_for_timeout(2500)  # and not with each look at the files
    expect(page.get_by_test_id("toast-body")).to_have_count(0)


def test_a_second_start_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    page = ui.Page(tmp_path)
    project = page.project("boats")
    project.folder.mkdir()
    project.recipe.write_text("")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        page.running[project.folder] = running
        with pytest.raises(ui.gr.Error, match="boats is training already"):
            page.start("boats")
        running.communicate(b"\n")


def test_a_name_is_no_path(tmp_path: Path) -> None:
    page = ui.Page(tmp_path)
    assert page.watch("boats")[0] == "Not started."
    for name in ("../boats", "", ".hidden", "a/b"):
        with pytest.raises(ui.gr.Error, match="Give the adapter a name"):
            page.project(name)
        assert page.watch(name)[0].startswith("Give the adapter a name")

"""Records the page for the README, with the bundled miniature: `python -m tools.record_page`.

A prompt is typed and compared, at the recommended strength and at a lower one, and the slider moves over the pair.
"""

import argparse
import io
import math
import re
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from impressionism.pipeline import load_pipeline
from space.app import build, close, launch

PROMPT, SEED, LOWER = "water lilies on a pond at noon", 8, 0.5
LARGEST = 1.5e6  # bytes, so that a README opens fast


class Film:
    """Screenshots of the page, each with the milliseconds that it is shown."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.milliseconds: list[int] = []

    def shoot(self, milliseconds: int) -> None:
        frame = Image.open(
            io.BytesIO(self.page.screenshot(clip={"x": 0, "y": 0, "width": 1100, "height": 660}))
        ).convert("RGB")
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.milliseconds[-1] += milliseconds
        else:
            self.frames.append(frame)
            self.milliseconds.append(milliseconds)

    def compare(self, strength: float) -> None:
        """Presses Compare and watches until the pair of this strength hangs."""
        button = self.page.get_by_role("button", name="Compare", exact=True)
        hangs = self.page.locator(f"#pair img.adapted[alt*='seed {SEED}'][alt*='strength {strength:g}']")
        button.click()
        while not (hangs.count() and button.is_visible()):
            self.shoot(100)
        expect(hangs).to_be_visible()
        self.shoot(1800)

    def save(self, file: Path) -> None:
        first, *rest = self.frames
        first.save(file, save_all=True, append_images=rest, duration=self.milliseconds, loop=0, quality=80, method=6)


def record(page: Page) -> Film:
    film, prompt = Film(page), page.get_by_label("Prompt")
    page.get_by_label("Seed", exact=True).fill(str(SEED))
    page.locator("#pair button", has_text="Side by side").click()
    prompt.fill("")
    film.shoot(600)
    for end in re.finditer(r"\b\w+", PROMPT):
        prompt.fill(PROMPT[: end.end()])
        film.shoot(180)
    film.compare(1)
    strength = page.locator("#strength input[type=range]")
    for step in range(1, 6):
        strength.fill(f"{1 + (LOWER - 1) * step / 5:g}")
        film.shoot(90)
    film.compare(LOWER)
    strength.fill("1")
    film.compare(1)
    page.locator("#pair button", has_text=re.compile("^Slider$")).click()
    handle = page.locator("#pair .handle")
    for frame in range(41):
        cut = 50 + 46 * math.sin(2 * math.pi * frame / 40)
        handle.evaluate("(it, cut) => { it.value = cut; it.dispatchEvent(new Event('input')); }", cut)
        film.shoot(80)
    film.shoot(700)
    return film


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.record_page", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("docs/page.webp"))
    out = parser.parse_args().out
    space = build(load_pipeline("miniature", device="cpu"))
    address = launch(space, prevent_thread_lock=True, quiet=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1100, "height": 900}, color_scheme="light")
        page.set_default_timeout(120_000)
        page.goto(address)
        film = record(page)
        chromium.close()
    close(space)
    film.save(out)
    if (size := out.stat().st_size) > LARGEST:
        raise SystemExit(f"{out} has {size / 1e6:.1f} MB, more than {LARGEST / 1e6} MB.")
    print(f"{out}: {len(film.frames)} frames, {sum(film.milliseconds) / 1000:.1f} s, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

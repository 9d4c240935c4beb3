"""The blind page in a real browser, by the keyboard alone; what it shows, what it writes, and what it will not do."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub import Hub
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from evaluation import ab, votes
from evaluation.exhibits import write_lines
from evaluation.study import PRIMARY, Study
from impressionism import paint
from impressionism.errors import UserError
from impressionism.records import Arm, Exhibit, GenerationParams, ImageMetadata, Provenance, StudyResult, parsed

WAIT = 30_000  # milliseconds; one core may be busy
ARMS: tuple[tuple[Arm, float], ...] = (
    ("base", 0),
    ("adapter", 0.5),
    ("adapter", 1),
    (PRIMARY, 0),
    ("adapter-styled", 1),
)


def canvas(seed: int, side: int = 96) -> Image.Image:
    spots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC)


def make_run(run: Path, prompts: int = 3) -> Path:
    """A run with a finished gallery, and folders of paintings and photographs beside it."""
    exhibits = []
    for prompt in range(prompts):
        for place, (arm, strength) in enumerate(ARMS):
            text = (
                f"a boat <{prompt}> on a wide river, with poplars, sails and a bridge, in the evening light"
                + ", Impressionist" * arm.endswith("styled")
            )
            recipe = ImageMetadata(
                sampling=GenerationParams(prompt=text, seed=7), strength=strength, provenance=Provenance(base="b")
            )
            file = f"{prompt}/7-{arm}-{strength:g}.png"
            paint.save(canvas(10 * prompt + place), recipe, run / "gallery" / file)
            exhibits.append(Exhibit(file=file, prompt=str(prompt), genre="landscape", arm=arm, recipe=recipe))
    write_lines(run / "gallery" / "gallery.jsonl", exhibits)
    for number, folder in enumerate(("paintings", "photographs")):
        (run.parent / folder).mkdir()
        canvas(100 + number).save(run.parent / folder / f"{folder}.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page's address, and its run."""
    run = make_run(tmp_path_factory.mktemp("served") / "run")
    folders = {name: run.parent / name for name in ("paintings", "photographs")}
    study = ab.settled(run, run / "votes", strength=None, planned=200, **folders)
    page = ab.build(ab.VotingSession(run, run / "votes", study, **folders, synthetic=True))
    yield ab.launch(page, prevent_thread_lock=True, quiet=True), run
    page.close(verbose=False)


def visit(chromium: Browser, address: str, width: int = 1280, height: int = 900) -> Page:
    """A visitor of their own, who has never been here."""
    page = chromium.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.get_by_role("button", name="Begin").wait_for()
    return page


def step(page: Page) -> str:
    return page.locator("#question [data-step]").get_attribute("data-step") or ""


def press(page: Page, key: str) -> None:
    """A key, again and again until the page has taken it: it takes none before the pictures can be seen."""
    before = step(page)
    for _ in range(200):
        page.keyboard.press(key)
        page.wait_for_timeout(60)
        if step(page) != before:
            return
    raise AssertionError(f"{key} was not taken at {before}")


def test_a_whole_session_by_the_keyboard_alone_becomes_votes_and_a_report(chromium: Browser, served: tuple[str, Path]):
    address, run = served
    page = visit(chromium, address)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    press(page, "Enter")
    keys, pressed, shown = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"], [], []
    while step(page) != "end":
        expect(page.locator("#pictures img")).to_have_count(2)
        shown += [image.get_attribute("src") or "" for image in page.locator("#pictures img").all()]
        pressed.append(keys[len(pressed) % 4])
        press(page, pressed[-1])
    expect(page.get_by_text("Thank you")).to_be_visible()
    expect(page.get_by_text("an Impressionist adapter")).to_be_visible()

    study = parsed(run / "votes" / "study.json", Study.from_json)
    written = votes.read(run / "votes", study)
    names = dict(zip(keys, ("left", "right", "tie", "neither"), strict=True))
    assert [vote.answer for vote in written] == [names[key] for key in pressed]
    assert len(written) == 3 * 3 * 2 + 1 + 3  # three prompts beside two arms, a catch trial, a repeat
    assert all(vote.synthetic and 0 < vote.milliseconds < WAIT for vote in written)
    assert {vote.rater for vote in written} == {written[0].rater}
    assert {(vote.left, vote.right) for vote in written if vote.kind == "main"} <= {
        pair for base in (PRIMARY, "base") for pair in (("adapter", base), (base, "adapter"))
    }

    assert_blind(shown, requests)
    ab.write_report(run, run / "votes")
    comparison = StudyResult.from_json((run / "ab.json").read_text())
    assert comparison.synthetic
    assert comparison.excluded or comparison.sessions == 1

    page.reload()  # the browser remembers which pairs were seen
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_text("You have seen all pairs.")).to_be_visible()


def assert_blind(shown: list[str], requests: list[str]) -> None:
    """Nothing that the browser was given tells one arm from another."""
    for source in shown:
        kind, _, data = source.partition(",")
        assert kind == "data:image/webp;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.format == "WEBP"
        assert not {"exif", "xmp", "icc_profile", paint.KEY} & set(image.info)
    assert not [url for url in requests if any(word in url for word in ("adapter", "base-", "gallery", ".png"))]


def test_the_questions_come_one_at_a_time_and_the_description_only_where_it_is_asked_for(
    chromium: Browser, served: tuple[str, Path]
):
    page = visit(chromium, served[0])
    page.get_by_role("button", name="Begin").click()
    seen: dict[str, bool] = {}
    while len(seen) < 3:
        expect(page.locator("#question h2")).to_have_count(1)
        question = page.locator("#question h2").inner_text()
        text = page.locator("#question .described").inner_text()
        seen[question] = "a boat <" in text
        assert "Impressionist" not in text
        press(page, "ArrowLeft")
    assert seen == {
        "Which looks more like an Impressionist painting?": False,
        "Which follows the description better?": True,
        "Which do you prefer?": False,
    }
    page.context.close()


def test_a_click_on_a_picture_chooses_it_and_an_impatient_second_one_counts_once(
    chromium: Browser, served: tuple[str, Path]
):
    address, run = served
    before = sum(1 for file in (run / "votes").glob("*.jsonl") for _ in file.open())
    page = visit(chromium, address)
    press(page, "Enter")
    first = step(page)
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="the second picture").dblclick()
    expect(page.locator(f'#question [data-step="{first}"]')).to_have_count(0)
    page.wait_for_timeout(500)
    lines = [line for file in (run / "votes").glob("*.jsonl") for line in file.open()]
    assert len(lines) == before + 1
    assert json.loads(lines[-1])["answer"] == "right"
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_pictures_and_all_answers_fit_on_a_phone(
    chromium: Browser, served: tuple[str, Path], theme: str, tmp_path: Path
):
    page = visit(chromium, f"{served[0]}?__theme={theme}", 360, 740)
    page.screenshot(path=tmp_path / f"begin-{theme}.png")
    page.get_by_role("button", name="Begin").click()
    expect(page.locator("#pictures img")).to_have_count(2)
    press(page, "ArrowLeft")  # the question with the description
    expect(page.locator("#question .described")).to_be_visible()
    page.screenshot(path=tmp_path / f"phone-{theme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.locator("#pictures button").all():
        box = button.bounding_box()
        assert box
        assert box["y"] + box["height"] <= 740
    ink, wall = page.evaluate("[getComputedStyle(document.querySelector('#question h2')).color, "
                              "getComputedStyle(document.body).backgroundColor]")  # fmt: skip
    assert contrast(ink, wall) > 7
    page.context.close()


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two CSS colours."""

    def luminance(colour: str) -> float:
        parts = np.array([float(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]]) / 255
        return float(
            np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        )

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


# ---- The study


def fixed(run: Path, **changed) -> Study:
    how = {"strength": None, "planned": None, "paintings": None, "photographs": None}
    return ab.settled(run, run / "votes", **{**how, **changed})


def test_the_study_is_fixed_by_the_first_opening(run: Path):
    study = fixed(run, planned=50)
    assert fixed(run, planned=None) == fixed(run, strength=1.0) == study
    assert study.strength == 1  # the gallery's own, as nothing is recommended
    assert [pair.against for pair in study.pairs] == [PRIMARY] * 3 + ["base"] * 3
    for pair in study.pairs:
        assert [side.arm for side in pair.sides] == ["adapter", pair.against]
        assert pair.sides[0].file.endswith("adapter-1.png")
        assert "Impressionist" not in pair.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"strength": 0.5}, "with strength 1;"), ({"planned": 999}, "with 200 votes planned;"),
     ({"paintings": Path("a"), "photographs": Path("b")}, "with no catch trials;")],
)  # fmt: skip
def test_what_a_fixed_study_has_otherwise_is_refused(run: Path, changed: dict, said: str):
    fixed(run)
    with pytest.raises(UserError, match=said):
        fixed(run, **changed)


def test_a_strength_that_the_gallery_lacks_is_refused(run: Path):
    with pytest.raises(UserError, match=r"no adapter at strength 0\.7"):
        fixed(run, strength=0.7)


def test_a_picture_that_changed_after_the_study_was_fixed_is_refused(run: Path):
    study = fixed(run)
    canvas(999).save(run / "gallery" / study.pairs[0].sides[0].file)
    with pytest.raises(UserError, match="not as it was"):
        ab.VotingSession(run, run / "votes", study, None, None, synthetic=True)


def test_a_rehearsal_and_real_votes_are_kept_apart_from_the_start(run: Path):
    study = fixed(run)
    room = ab.VotingSession(run, run / "votes", study, None, None, synthetic=True)
    session = room.begin("visitor", set())
    assert session
    room.take(session, "left", 900)
    with pytest.raises(UserError, match="has synthetic votes"):
        ab.VotingSession(run, run / "votes", study, None, None, synthetic=False)


def test_the_study_closes_with_the_votes_that_were_planned(run: Path):
    study = fixed(run, planned=3)
    room = ab.VotingSession(run, run / "votes", study, None, None, synthetic=True)
    session = room.begin("visitor", set())
    assert session
    while not session.done:
        room.take(session, "left", 900)
    assert room.begin("another", set()) is None
    again = ab.VotingSession(run, run / "votes", study, None, None, synthetic=True)  # also after a restart
    assert again.begin("another", set()) is None


def test_the_report_before_a_study_says_what_to_do(run: Path):
    with pytest.raises(UserError, match="There is no study"):
        ab.ab(run, report=True)


def test_catch_trials_need_both_folders(run: Path):
    with pytest.raises(UserError, match="both folders"):
        ab.ab(run, paintings=run)


# ---- The dataset


def test_votes_go_to_a_private_dataset_and_come_back_after_a_restart(run: Path, hub: Hub, tmp_path: Path):
    study, folder = fixed(run), run / "votes"
    scheduler = ab.publish("monet/votes", folder, minutes=1000)
    room = ab.VotingSession(run, folder, study, None, None, synthetic=True)
    room.lock = scheduler.lock
    session = room.begin("visitor", set())
    assert session
    for _ in range(4):
        room.take(session, "right", 900)
    scheduler.trigger().result(timeout=60)
    scheduler.stop()
    assert hub.repos["datasets/monet/votes"].private
    assert set(hub.files("datasets/monet/votes")) == {"study.json", room.file.name}

    elsewhere = tmp_path / "restarted"
    ab.fetch("monet/votes", elsewhere)
    assert parsed(elsewhere / "study.json", Study.from_json) == study
    assert votes.read(elsewhere, study) == room.votes
    ab.fetch("monet/nothing-yet", tmp_path / "first")  # a dataset that is still to be made
    assert not (tmp_path / "first").exists()

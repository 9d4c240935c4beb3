"""Evidence → card: the adapter folder's README.md, images, LICENSE.md and NOTICE, from the run's records alone.

    python -m model_card render runs/NAME --repo USER/NAME

The wording is in card.md and words.py; the numbers are in the records, and the same records give the same bytes.
"""

from pathlib import Path
from typing import NamedTuple

from impressionism.errors import UserError
from impressionism.records import Exhibit, Pair
from model_card import figures, modelspec, pictures
from model_card.evidence import RunRecords, read
from model_card.front_matter import front_matter, spec
from model_card.numbers import environment
from model_card.presets import Preset, preset_for
from model_card.words import gap_rows, notice, trigger_of, words

TEMPLATE = Path(__file__).with_name("card.md")
SHOWN = 12  # pictures at the head of the card


class Row(NamedTuple):
    """One noise, painted several times."""

    base: Exhibit
    styled: Exhibit | None
    adapted: Exhibit
    gain: float


def render(run: Path, *, base: str | None = None, repo: str | None = None, space: str | None = None) -> None:
    """Write the card and all that belongs to it into RUN/adapter; what is there already stays as it is, but for
    pictures in images/ that the card no longer shows."""
    evidence = read(run)
    preset = preset_for(base or evidence.run.base)
    files = compose(evidence, preset, repo=repo, space=space)
    before = {name: (evidence.adapter / name).read_bytes() for name in files if (evidence.adapter / name).exists()}
    for name, content in files.items():
        if before.get(name) != content:
            (evidence.adapter / name).parent.mkdir(parents=True, exist_ok=True)
            (evidence.adapter / name).write_bytes(content)
    for old in set((evidence.adapter / "images").iterdir()) - {evidence.adapter / name for name in files}:
        old.unlink()
    modelspec.relabel(evidence.comfy, **spec(evidence, preset))
    changed = sum(before.get(name) != content for name, content in files.items())
    print(f"{evidence.adapter / 'README.md'}: {len(files)} files, {changed or 'none'} of them new or changed.")


def compose(evidence: RunRecords, preset: Preset, *, repo: str | None, space: str | None) -> dict[str, bytes]:
    """Every file of the card, by its path in the adapter's folder."""
    shown = to_show(evidence, preset)
    rows = [row_of(evidence, pair) for pair in evidence.pairs if pair.chosen != "worst"]
    worst = [row_of(evidence, pair) for pair in evidence.pairs if pair.chosen == "worst"]
    strengths = pictures.rows_of_strengths(evidence, shown)
    gaps = gap_rows(evidence.scores)
    hung = [*shown, *(exhibit for row in rows + worst for exhibit in row[:3] if exhibit)]
    files = pictures.files_of(evidence, hung)
    files["images/strength.png"] = figures.strength_curve(evidence.scores)
    files["images/training.png"] = figures.training_loss(evidence.log)
    if strengths:
        files["images/strengths.webp"] = pictures.encoded(pictures.sheet(evidence, strengths))
    if gaps:
        files["images/characteristics.png"] = figures.gaps(gaps, preset.real)
    body = environment().get_template(TEMPLATE.name).render(
        preset=preset, scores=evidence.scores, shown=shown, compared=rows, worst=worst,
        **words(evidence, preset, shown, repo, space), has_sheet=bool(strengths), has_gaps=bool(gaps),
    )  # fmt: skip
    files["README.md"] = f"---\n{front_matter(evidence, preset, shown, repo)}\n---\n\n{body}".encode()
    files["LICENSE.md"] = preset.license_file.read_bytes()
    files["NOTICE"] = notice(evidence, preset).encode()
    return files


# ---- Which pictures


def to_show(evidence: RunRecords, preset: Preset) -> list[Exhibit]:
    """The middling picture of each genre, then the best-gaining ones, a prompt once and the genres in turn; painted
    with the trigger where there is one. The middling stand first, being what to expect."""
    between = [pictures.exhibit_of(evidence, pair) for pair in evidence.pairs if pair.chosen == "between"]
    hung = [*between, *pictures.named(evidence, evidence.scores.best)]
    found = list({exhibit.prompt: exhibit for exhibit in reversed(hung)}.values())[::-1]
    if trigger := trigger_of(evidence, preset):
        found = [pictures.sibling(evidence, exhibit, "adapter-styled") or exhibit for exhibit in found]
        found.sort(key=lambda exhibit: trigger not in exhibit.recipe.sampling.prompt)
    if not found or (trigger or "") not in found[0].recipe.sampling.prompt:
        raise UserError(
            f"No picture to show was painted with the trigger {trigger!r}, so none stands first: let `styled` "
            "in a prompt set begin with it, then run `gallery` with it and `score` again (python -m evaluation)."
        )
    return in_turn(found)[:SHOWN]


def in_turn(exhibits: list[Exhibit]) -> list[Exhibit]:
    """One of each genre, then the next of each; the first stays the first."""
    genres: dict[str, list[Exhibit]] = {}
    for exhibit in exhibits:
        genres.setdefault(exhibit.genre, []).append(exhibit)
    longest = max(map(len, genres.values()), default=0)
    return [genre[place] for place in range(longest) for genre in genres.values() if place < len(genre)]


def row_of(evidence: RunRecords, pair: Pair) -> Row:
    adapted = pictures.exhibit_of(evidence, pair)
    base = pictures.sibling(evidence, adapted, "base")
    if base is None:
        raise UserError(f"The gallery has no base picture beside {adapted.file}: run `evaluation gallery` again.")
    return Row(base, pictures.sibling(evidence, adapted, "base-styled"), adapted, pair.gain)

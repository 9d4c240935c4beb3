"""Writes an adapter's card from its run's records: README.md, images, LICENSE.md and NOTICE in RUN/adapter.

    python -m model_card render runs/NAME --repo USER/NAME

The text is in card.md.j2, every number comes from a record, and the same records give the same bytes.
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml
from PIL import Image, ImageDraw, ImageFont

from impressionism import names, plots
from impressionism.errors import UserError
from impressionism.files import write_atomic
from impressionism.records import FEW_PROMPTS, QUESTIONS, Exhibit, Pair
from model_card.front_matter import emissions, front_matter
from model_card.presets import Preset, preset_for
from model_card.run_records import RunRecords, read
from model_card.wording import ASKED, environment, gap_rows, picture_name, short, trigger_of, weaknesses

SHOWN = 12  # pictures in the card's gallery
SIDE, QUALITY = 768, 90  # px and WebP quality: brush strokes survive both
SHEET_ROWS, SHEET_WIDTH, CAPTION = 3, 1600, 22  # of the sheet of strengths; width and caption in px


class Row(NamedTuple):
    """One prompt and noise, painted several ways."""

    base: Exhibit
    styled: Exhibit | None
    adapted: Exhibit
    gain: float


def render(run: Path, *, base: str | None = None, repo: str | None = None, space: str | None = None) -> None:
    """Write the card. Files that would not change are left alone; pictures of an older card are deleted."""
    records = read(run)
    preset = preset_for(base or records.run.base)
    files = compose(records, preset, repo=repo, space=space)
    changed = 0
    for name, content in files.items():
        file = records.adapter / name
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            changed += 1
    for old in set((records.adapter / "images").iterdir()) - {records.adapter / name for name in files}:
        old.unlink()
    relabel(records.comfy, modelspec_of(records, preset))
    print(f"{records.adapter / 'README.md'}: {len(files)} files, {changed or 'none'} of them new or changed.")


def compose(records: RunRecords, preset: Preset, *, repo: str | None, space: str | None) -> dict[str, bytes]:
    """Every file of the card by its path in the adapter's folder."""
    scores, run = records.scores, records.run
    shown = gallery(records, preset)
    rows = [row_of(records, pair) for pair in records.pairs if pair.chosen != "worst"]
    worst = [row_of(records, pair) for pair in records.pairs if pair.chosen == "worst"]
    sheet_rows, gaps = strength_rows(records, shown), gap_rows(scores)
    pictured = [*shown, *(exhibit for row in rows + worst for exhibit in row[:3] if exhibit)]
    files = {picture_name(exhibit): encoded(small(records, exhibit), exhibit) for exhibit in pictured}
    files["images/strength.png"] = plots.strength_curve(scores, preset.real)
    files["images/training.png"] = plots.training_loss(records.log)
    if sheet_rows:
        files["images/strengths.webp"] = encoded(sheet(records, sheet_rows))
    if gaps:
        files["images/characteristics.png"] = plots.gaps_closed(gaps, preset.real)

    index = next((metric for metric in scores.metrics if metric.name == "index" and metric.adapter), None)
    not_computed = [metric for metric in scores.metrics if not metric.adapter]
    body = environment().get_template("card.md.j2").render(
        records=records, preset=preset, scores=scores, run=run, recipe=records.recipe, names=names,
        title=repo.split("/")[-1] if repo else run.name,
        source=repo or f"runs/{run.name}/adapter",
        space=space,
        trigger=trigger_of(records, preset),
        index=index,
        shown=shown, first=shown[0].recipe.sampling, rows=rows, worst=worst,
        styled_base=any(exhibit.arm == "base-styled" for exhibit in records.exhibits),
        has_sheet=bool(sheet_rows), has_gaps=bool(gaps),
        curve=sorted(scores.curve, key=lambda point: point.strength),
        questions=[(title, found) for question, title in QUESTIONS.items()
                   if (found := [row for row in scores.metrics if row.question == question and row.adapter])],
        not_computed={note.rstrip("."): [metric for metric in not_computed if metric.note == note]
                      for note in sorted({metric.note for metric in not_computed})},
        learned=sorted({metric.weights for metric in scores.metrics if metric.weights and metric.adapter}),
        votes=records.votes, asked=ASKED, few_prompts=FEW_PROMPTS,
        weaknesses=weaknesses(records, preset),
        emissions=emissions(records),
        recipe_yaml=portable_recipe(records),
    )  # fmt: skip
    files["README.md"] = f"---\n{front_matter(records, preset, shown, repo)}\n---\n\n{body}".encode()
    files["LICENSE.md"] = preset.license_file.read_bytes()
    files["NOTICE"] = notice(records, preset).encode()
    return files


# ---- Which pictures


def gallery(records: RunRecords, preset: Preset) -> list[Exhibit]:
    """A typical picture of each genre first, because it shows what to expect; then the best ones. Each prompt appears
    once, the genres take turns, and pictures painted with the trigger come first where there is one."""
    by_file = {exhibit.file: exhibit for exhibit in records.exhibits}
    candidates = [records.exhibit(pair) for pair in records.pairs if pair.chosen == "between"]
    candidates += [by_file[file] for file in records.scores.best]
    unique = list({exhibit.prompt: exhibit for exhibit in reversed(candidates)}.values())[::-1]
    if trigger := trigger_of(records, preset):
        unique = [records.sibling(exhibit, "adapter-styled") or exhibit for exhibit in unique]
        unique.sort(key=lambda exhibit: trigger not in exhibit.recipe.sampling.prompt)
    if not unique or (trigger or "") not in unique[0].recipe.sampling.prompt:
        raise UserError(
            f"No picture of the gallery was painted with the trigger {trigger!r}: let `styled` in the prompt set begin "
            "with it, then run `evaluation gallery` and `evaluation score` again."
        )
    genres: dict[str, list[Exhibit]] = {}
    for exhibit in unique:
        genres.setdefault(exhibit.genre, []).append(exhibit)
    most = max(map(len, genres.values()))
    return [genre[place] for place in range(most) for genre in genres.values() if place < len(genre)][:SHOWN]


def row_of(records: RunRecords, pair: Pair) -> Row:
    adapted = records.exhibit(pair)
    base = records.sibling(adapted, "base")
    if base is None:
        raise UserError(f"The gallery has no base picture beside {adapted.file}: run `evaluation gallery` again.")
    return Row(base, records.sibling(adapted, "base-styled"), adapted, pair.gain)


def strength_rows(records: RunRecords, shown: Iterable[Exhibit]) -> list[list[Exhibit]]:
    """For the first prompts shown, the noise that was painted at most strengths, beginning with the base model."""
    rows: dict[tuple[str, int], list[Exhibit]] = {}
    for one in sorted(records.exhibits, key=lambda one: one.recipe.strength):
        if one.arm in ("base", "adapter"):
            rows.setdefault(one.noise, []).append(one)
    longest = [
        max((row for (prompt, _), row in rows.items() if prompt == exhibit.prompt), key=len) for exhibit in shown
    ]
    most = max(map(len, longest), default=0)
    return [row for row in longest if len(row) == most][:SHEET_ROWS] if most > 2 else []


# ---- Drawing them


def small(records: RunRecords, exhibit: Exhibit, side: int = SIDE) -> Image.Image:
    with Image.open(records.picture(exhibit)) as picture:
        result = picture.convert("RGB")
    result.thumbnail((side, side), Image.Resampling.LANCZOS)
    return result


def encoded(picture: Image.Image, exhibit: Exhibit | None = None) -> bytes:
    """A WebP; an exhibit's says in its metadata that it is AI-generated, and how it was made."""
    from impressionism.paint import NOTICE, summary

    exif = Image.Exif()
    if exhibit:
        exif[0x010E] = f"{NOTICE}. {summary(exhibit.recipe)}"  # ImageDescription
    file = io.BytesIO()
    picture.save(file, format="webp", quality=QUALITY, method=6, exif=exif)
    return file.getvalue()


def sheet(records: RunRecords, rows: list[list[Exhibit]]) -> Image.Image:
    """One row per prompt, one column per strength; each row from one noise."""
    pictures = [[small(records, exhibit, SHEET_WIDTH // len(row)) for exhibit in row] for row in rows]
    width = max(picture.width for row in pictures for picture in row)
    heights = [CAPTION + max(picture.height for picture in row) for row in pictures]
    result = Image.new("RGB", (width * len(rows[0]), sum(heights)), "white")
    draw, font, top = ImageDraw.Draw(result), ImageFont.load_default(15), 0
    for row, small_row, height in zip(rows, pictures, heights, strict=True):
        for column, (exhibit, picture) in enumerate(zip(row, small_row, strict=True)):
            strength = exhibit.recipe.strength
            text = f"strength {strength:g}" if strength else "base model"
            draw.text((column * width + 6, top + 3), text, fill="black", font=font)
            result.paste(picture, (column * width, top + CAPTION))
        top += height
    return result


# ---- Texts that are no part of the card's page


def portable_recipe(records: RunRecords) -> str:
    """The sections of the recipe that decide the numbers, without paths of one machine."""
    recipe = {key: dict(records.recipe[key]) for key in ("model", "data", "adapter", "flow", "optimizer")}
    for section in recipe.values():
        for key, value in section.items():
            if isinstance(value, str) and Path(value).is_absolute():
                section[key] = Path(value).name
    own = ("seed", "save", "validate_every", "validation_pictures")
    recipe["run"] = {key: records.recipe["run"][key] for key in own if key in records.recipe["run"]}
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110).strip()


def modelspec_of(records: RunRecords, preset: Preset) -> dict[str, str]:
    """ModelSpec keys for the ComfyUI file; the evaluated file keeps its bytes."""
    scores = records.scores
    return {
        "description": f"Gives {preset.title} an Impressionist manner.",
        "license": preset.license.get("license_name", preset.license["license"]),
        "tags": ", ".join(preset.tags),
        "usage_hint": f"Strength {short(scores.strength)}, useful from {short(scores.strength_low)} to "
        f"{short(scores.strength_high)}; 0 is the base model.",
    }


def relabel(file: Path, facts: dict[str, str]) -> None:
    """Lays ModelSpec keys over those of a safetensors file; its tensors stay as they are, and the same facts give the
    same bytes."""
    from impressionism.lora_file import open_file

    known = open_file(file, weights=False)[1]
    metadata = known | {f"modelspec.{key}": value for key, value in facts.items()}
    if metadata == known:
        return
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start]) | {"__metadata__": dict(sorted(metadata.items()))}
    encoded = json.dumps(header, ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors stay aligned
    write_atomic(file, len(encoded).to_bytes(8, "little") + encoded + content[start:])


def notice(records: RunRecords, preset: Preset) -> str:
    """What the licence requires beside the weights: attribution, the modification, and who grants the rights."""
    if not preset.on_hub:
        return f"{preset.attribution}\n\nIt is licensed under the MIT licence; see LICENSE.md.\n"
    return f"""{preset.attribution}

The FLUX.1 [dev] Model has been modified: {names.WEIGHTS_FILE} and {records.comfy.name} are low-rank updates of its
transformer, trained on {records.run.dataset}. They are a Derivative in the sense of the License.

Any rights to use the FLUX.1 [dev] Model and this Derivative are granted directly by Black Forest Labs Inc., pursuant to
the License, a copy of which is in LICENSE.md. Its disclaimers (section 5) and its limitation of liability (section 6)
apply to this Derivative as they do to the Model, for the benefit of Black Forest Labs Inc. and of this Derivative's
maker.

This Derivative is no official product of Black Forest Labs Inc., and has not been endorsed, approved or validated by
them.
"""

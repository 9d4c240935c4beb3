"""What the bundled miniature paints: `python -m benchmarks.miniature [--pictures 96]` (about 5 minutes on two CPU
cores) writes miniature.json and, to look at, miniature.jpg.

(a) A small classifier, taught on drawn scenes, looks for what the prompt names in pictures of the base and of the
    adapter at its recommended strength, in 20 steps and in fast mode. It has to choose one of 16 subjects, so its share
    is higher than that of a person, who may say "nothing".
(b) Strength 0 is the base model, bit for bit.
(c) The stroke statistic grows with strength 0 → 1.25: Spearman ≥ 0.9 for a prompt in the mean.
(d) The composition stays: correlation of the low-frequency luminance with strength 0. The recommended strength is the
    highest at which it is ≥ 0.85 in the mean; the adapter's README.md is given it, where painting reads it.
(e) The adapter took ≤ 20 minutes to train and ≤ 3 MB on disk.
And of the autoencoder: ≥ 30 dB on drawn scenes; a painted scene keeps ≥ 80 % of its stroke statistic.

`--blind FOLDER` writes numbered sheets without captions for 48 prompts in held-out phrasings that name subject and
light, three a subject: of the base, of the adapter and of painted scenes like those it learned from; and their key
beside the folder, in FOLDER-key.json. Whoever sees only the sheets writes FOLDER/base.json, FOLDER/adapter.json and
FOLDER/painted-scenes.json: for each number {"guess": what it shows, "clarity": 0 (mush), 1 (guessable), 2 (clear) or 3
(clear and well drawn)}. `--count FOLDER` compares that with the key and writes it into miniature.json: a subject is
named when the guess has its noun or a synonym of it (NOUNS); a wider word, such as "flowers" for poppies, does not
count, nor does what stands in brackets.
"""

import argparse
import dataclasses
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.measure import markdown, marked, processor, surroundings, taken
from impressionism import names
from impressionism.paint import compare, defaults, paint, sweep
from impressionism.pictorial import stroke_statistic
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams
from tools.miniature.brush import paint_over
from tools.miniature.captions import ATTRIBUTES, describe_with
from tools.miniature.scenes import scene_of
from tools.miniature.world import COLOURS, LIGHTS, SUBJECTS, Scene, draw, numbers

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
KEPT = 0.85  # the composition's correlation at the recommended strength
ASKED = ("subject", "light", "number", "colour", "place")
HERE = Path(__file__).parent
TARGETS = {"base": 46, "adapter": 44, "painted scenes": 47}  # of 48, named blind
CLEAR = 2.5  # the base's and the adapter's mean clarity
NOUNS = {  # singular; a plural s is added
    "boat": "boat|sailboat|ship|yacht", "haystack": "haystack|hay", "poplars": "poplar", "cottage": "cottage|house",
    "lilies": "lily|lilies", "poppies": "poppy|poppies", "bridge": "bridge|viaduct", "church": "church|chapel",
    "windmill": "windmill|mill", "cliffs": "cliff|rock arch|sea arch", "train": "train|locomotive",
    "lighthouse": "lighthouse", "orchard": "tree|blossom|orchard", "sunflowers": "sunflower",
    "fruit": "fruit|apple|orange", "parasol": "parasol|umbrella",
}  # fmt: skip


def scenes(folder: Path, count: int, seed: int, *options: str) -> list[dict]:
    """Scenes drawn by `tools.miniature.scenes` into `folder`, for benchmarks that read a folder; their records."""
    command = [sys.executable, "-m", "tools.miniature.scenes", folder, "--count", count, "--seed", seed, *options]
    subprocess.run([str(part) for part in command], check=True)
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def generation(painter: Painter, prompt: str, seed: int, fast: bool = False) -> GenerationParams:
    return defaults(painter, prompt, fast).replace(seed=seed)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(count, height, width, 3) uint8 → (count, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def small(pictures: list[np.ndarray]) -> torch.Tensor:
    """(side, side, 3) uint8 each → (count, 3, 96, 96) in [-1, 1]."""
    return to_tensor(np.stack([cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA) for picture in pictures]))


# ---- What a classifier sees


class Classifier(nn.Module):
    """Tells the attributes of a scene from a picture of 96 x 96 px."""

    def __init__(self) -> None:
        super().__init__()
        layers, before = [], 3
        for width in (24, 48, 96, 128):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleList([nn.Linear(9 * before, len(ATTRIBUTES[name])) for name in ASKED])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.body(x)
        return [head(x) for head in self.heads]


def labels(scenes: list[Scene]) -> torch.Tensor:
    """(count, attributes): which value of each."""
    return torch.tensor([[ATTRIBUTES[name].index(str(getattr(scene, name))) for name in ASKED] for scene in scenes])


def teach(count: int, epochs: int = 12) -> Classifier:
    """A classifier of drawn scenes; blur and noise make it look at form."""
    torch.manual_seed(0)
    scenes = [scene_of(200, i) for i in range(count)]
    pictures, truth = small([draw(scene) for scene in scenes]), labels(scenes)
    model, batch = Classifier(), 48
    steps = max(2, epochs * count // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="classifier"):
        index = torch.randint(count, (batch,))
        x = pictures[index]
        if torch.rand(1) < 0.5:
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        x = x + 0.1 * torch.rand(1) * torch.randn_like(x)
        loss = sum(F.cross_entropy(answer, label) for answer, label in zip(model(x), truth[index].T, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def found(model: Classifier, pictures: list[Image.Image], scenes: list[Scene], told: list[dict]) -> dict:
    """For each attribute the share that is right of the pictures whose prompt names it."""
    answers = torch.stack([answer.argmax(-1) for answer in model(small([np.asarray(p) for p in pictures]))], -1)
    right = (answers == labels(scenes)).numpy()
    shares = {}
    for column, name in enumerate(ASKED):
        named = np.array([name in said for said in told])
        shares[name] = round(float(right[named, column].mean()), 4) if named.any() else None
    return shares


def recognition(painter: Painter, strength: float, count: int, taught: int) -> tuple[dict, list[Image.Image]]:
    """(a), and the base's pictures for the contact sheet."""
    model = teach(taught)
    rng = np.random.default_rng(201)
    scenes = [scene_of(201, i) for i in range(count)]
    prompts, told = zip(*(describe_with(scene, rng, held_out=True) for scene in scenes), strict=True)
    figures, base = {"pictures": count, "strength": strength}, []
    rows = [("base", 0.0, False), ("adapter", strength, False)]
    for row, at, fast in [*rows, *([("fast", strength, True)] if painter.accelerator else [])]:
        pictures = [
            paint(painter, generation(painter, prompt, 1000 + i, fast), at, fast=fast)
            for i, prompt in enumerate(tqdm(prompts, desc=row))
        ]
        base = base or pictures
        figures[row] = found(model, pictures, scenes, list(told))
    unseen = [scene_of(202, i) for i in range(count)]
    everything = [dict.fromkeys(ASKED)] * count
    figures["classifier_on_unseen_drawings"] = found(
        model, [Image.fromarray(draw(s)) for s in unseen], unseen, everything
    )
    return figures, base


# ---- What strength does


def low_luminance(picture: Image.Image) -> np.ndarray:
    return cv2.GaussianBlur(np.asarray(picture.convert("L"), np.float32), (0, 0), 8).ravel()


def strength(painter: Painter, prompts: list[str]) -> tuple[dict, dict, list[list[Image.Image]]]:
    """(c) and (d), and the sweeps for the contact sheet."""
    rows, ranks, kept, curves = [], [], [], []
    for seed, prompt in enumerate(tqdm(prompts, desc="sweeps")):
        row = [picture for _, picture in sweep(painter, generation(painter, prompt, seed), STRENGTHS)]
        strokes = [stroke_statistic(np.asarray(picture)) for picture in row]
        ranks.append(spearmanr(STRENGTHS, strokes).statistic)
        kept.append([np.corrcoef(low_luminance(row[0]), low_luminance(picture))[0, 1] for picture in row])
        curves.append(strokes)
        rows.append(row)
    grown = {
        "prompts": len(prompts),
        "strengths": STRENGTHS,
        "stroke_statistic": np.round(np.mean(curves, 0), 3).tolist(),
        "spearman_mean": round(float(np.mean(ranks)), 4),
        "spearman_least": round(float(np.min(ranks)), 4),
    }
    means = np.mean(kept, 0)
    recommended = max(at for at, mean in zip(STRENGTHS[:-1], means, strict=False) if mean >= KEPT)
    column = STRENGTHS.index(recommended)
    stayed = {
        "prompts": len(prompts),
        "correlation": np.round(means, 4).tolist(),
        "recommended_strength": recommended,
        "correlation_mean": round(float(means[column]), 4),
        "correlation_least": round(float(np.min(kept, 0)[column]), 4),
    }
    return grown, stayed, rows


def strength_zero(painter: Painter, prompts: list[str]) -> dict:
    """(b): against a pipeline that never loaded an adapter."""
    bare = load_pipeline("miniature", adapter="none", device="cpu")
    asked = [generation(painter, prompt, 50 + i) for i, prompt in enumerate(prompts)]
    same = [
        paint(painter, s, 0.0).tobytes() == paint(bare, s, 0.0).tobytes() == compare(painter, s, 1.0)[0].tobytes()
        for s in asked
    ]
    return {"pictures": len(same), "identical": sum(same)}


# ---- The files


@torch.no_grad()
def autoencoder(painter: Painter, count: int) -> dict:
    vae = painter.pipe.vae
    drawn = [draw(scene_of(202, i)) for i in range(count)]
    painted = [paint_over(picture, i) for i, picture in enumerate(drawn)]
    decibels, again = {}, []
    for kind, pictures in (("drawn", drawn), ("painted", painted)):
        x = to_tensor(np.stack(pictures))
        y = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(8)]).clamp(-1, 1)
        decibels[kind] = round(float(10 * torch.log10(4 / (x - y).square().mean())), 2)
        again = ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    kept = np.mean([stroke_statistic(b) / stroke_statistic(a) for a, b in zip(painted, again, strict=True)])
    return {
        "pictures": count,
        "drawn_dB": decibels["drawn"],
        "painted_dB": decibels["painted"],
        "strokes_kept": round(float(kept), 4),
    }


def adapter() -> dict:
    """(e), from the record that the training run left beside the adapter."""
    run = json.loads((names.MINIATURE_ADAPTER / "run.json").read_text())
    size = (names.MINIATURE_ADAPTER / names.WEIGHTS_FILE).stat().st_size
    return {
        "minutes": round(run["seconds"] / 60, 2),
        "megabytes": round(size / 1e6, 3),
        "trained_parameters": run["trained_parameters"],
        "validation_loss": run["validation_loss"],
        "base_validation_loss": run["base_validation_loss"],
    }


# ---- Sheets


def contact_sheet(pictures: list[Image.Image], rows: list[list[Image.Image]]) -> Image.Image:
    """Base pictures on top, sweeps below with their strengths."""
    side = pictures[0].width
    grid = [pictures[i : i + len(STRENGTHS)] for i in range(0, 5 * len(STRENGTHS), len(STRENGTHS))] + rows[:7]
    sheet = Image.new("RGB", (side * len(STRENGTHS), side * len(grid)), "white")
    for y, row in enumerate(grid):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * side, y * side))
            if y >= 5:
                ImageDraw.Draw(sheet).text((x * side + 4, y * side + 4), f"{STRENGTHS[x]:g}", fill="white")
    return sheet


def blind_prompts() -> list[tuple[Scene, str]]:
    """48 scenes, three a subject, with a held-out phrasing that names subject and light; fixed beforehand."""
    rng = np.random.default_rng(48)
    asked = []
    for i, subject in enumerate(np.repeat(SUBJECTS, 3)):
        colour = list(COLOURS[subject])[i % len(COLOURS[subject])]
        scene = Scene(subject, LIGHTS[i * 5 % 6], "centre", numbers(subject)[0], colour, "large", i % 2)
        text, told = describe_with(scene, rng, held_out=True)
        while set(told) - {"number"} != {"subject", "light"}:
            text, told = describe_with(scene, rng, held_out=True)
        asked.append((scene, text))
    return asked


def blind(painter: Painter, strength: float, folder: Path) -> None:
    """Numbered sheets of 16 pictures each, in random order, and their key."""
    asked = blind_prompts()
    painters = {
        "base": lambda i: paint(painter, generation(painter, asked[i][1], 500 + i), 0.0),
        "adapter": lambda i: paint(painter, generation(painter, asked[i][1], 500 + i), strength),
        "painted scenes": lambda i: Image.fromarray(paint_over(draw(asked[i][0]), i)),
    }
    key: dict = {"date": datetime.date.today().isoformat(), "strength": strength, "of": len(asked)}
    for kind, make in painters.items():
        order = np.random.default_rng(len(kind)).permutation(len(asked)).tolist()
        pictures = [make(i) for i in tqdm(order, desc=kind)]
        write_sheets(pictures, folder, kind.replace(" ", "-"))
        key[kind] = [
            {"number": n + 1, "subject": asked[i][0].subject, "light": asked[i][0].light, "prompt": asked[i][1],
             "seed": 500 + i}
            for n, i in enumerate(order)
        ]  # fmt: skip
    key_of(folder).write_text(json.dumps(key, indent=1) + "\n")


def key_of(folder: Path) -> Path:
    """Where whoever gets the folder does not see it."""
    return folder.with_name(f"{folder.name}-key.json")


def names_it(guess: str, subject: str) -> bool:
    return re.search(rf"\b({NOUNS[subject]})s?\b", guess.split("(")[0].lower()) is not None


def count(folder: Path, reader: str) -> dict:
    """What a reader of the blind sheets recognised, for the record."""
    key = json.loads(key_of(folder).read_text())
    result = {name: key[name] for name in ("date", "strength", "of")}
    result |= {"reader": reader, "named": {}, "clarity": {}, "missed": {}}
    for kind in TARGETS:
        answers = json.loads((folder / f"{kind.replace(' ', '-')}.json").read_text())
        told = [(row["subject"], answers[str(row["number"])]) for row in key[kind]]
        missed = [subject for subject, answer in told if not names_it(answer["guess"], subject)]
        result["named"][kind] = len(told) - len(missed)
        result["clarity"][kind] = round(sum(answer["clarity"] for _, answer in told) / len(told), 2)
        result["missed"][kind] = sorted(missed)
    return result


def write_sheets(pictures: list[Image.Image], folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cell = pictures[0].width + 8
    for first in range(0, len(pictures), 16):
        sheet = Image.new("RGB", (4 * cell, 4 * (cell + 16)), "white")
        for n, picture in enumerate(pictures[first : first + 16]):
            x, y = n % 4 * cell + 4, n // 4 * (cell + 16) + 18
            sheet.paste(picture, (x, y))
            ImageDraw.Draw(sheet).text((x, y - 14), str(first + n + 1), fill="black")
        sheet.save(folder / f"{name}-{first // 16 + 1}.png")


# ---- The record


def table(result: dict) -> str:
    """The figures as the benchmarks' page shows them."""
    a, b, c, d, e = (result[key] for key in sorted(result) if key[1] == "_")
    vae, at = result["autoencoder"], a["strength"]
    rows = []
    kinds = {"base": "the base", "adapter": f"the adapter at strength {at:g}", "fast": "the same in 4 steps"}
    for kind, where in ((kind, where) for kind, where in kinds.items() if kind in a):
        shares = a[kind]
        rows += [
            (f"{where}: subject recognised in {a['pictures']} pictures, by a classifier's choice among 16",
             f"{shares['subject']:.1%}", "≥ 90 %", shares["subject"] >= 0.9),
            (f"{where}: light recognised, likewise among 6", f"{shares['light']:.1%}", "≥ 85 %",
             shares["light"] >= 0.85),
        ]  # fmt: skip
        rows += [
            (f"{where}: {name} right where the prompt names it", f"{shares[name]:.1%}", "≥ 85 %", shares[name] >= 0.85)
            for name in ("number", "colour", "place")
            if shares[name] is not None
        ]
    blind = result.get("blind") or {}
    for kind, named in blind.get("named", {}).items():
        where = {"adapter": f"the adapter at strength {blind['strength']:g}"}.get(kind, f"the {kind}")
        rows.append((f"{where}: subject named by {blind['reader']} that saw only numbered sheets, {blind['date']}",
                     f"{named} of {blind['of']}", f"≥ {TARGETS[kind]}", named >= TARGETS[kind]))  # fmt: skip
        if kind != "painted scenes":
            clarity = blind["clarity"][kind]
            rows.append((f"{where}: how clear the same reader found it, 0 to 3, in the mean", f"{clarity:.2f}",
                         f"≥ {CLEAR}", clarity >= CLEAR))  # fmt: skip
    recommended = d["recommended_strength"]
    rows += [
        ("strength 0 is the base, bit for bit", f"{b['identical']} of {b['pictures']}", "all",
         b["identical"] == b["pictures"]),
        ("strokes grow with strength (Spearman, mean)", f"{c['spearman_mean']:.3f}", "≥ 0.9",
         c["spearman_mean"] >= 0.9),
        (f"composition kept at strength {recommended:g}, which is recommended (correlation)",
         f"{d['correlation_mean']:.3f}", f"≥ {KEPT}", d["correlation_mean"] >= KEPT),
        ("training of the adapter, two CPU cores", f"{e['minutes']:.1f} minutes", "≤ 20", e["minutes"] <= 20),
        ("size of the adapter", f"{e['megabytes']:.2f} MB", "≤ 3", e["megabytes"] <= 3),
        ("autoencoder on drawn scenes", f"{vae['drawn_dB']:.1f} dB", "≥ 30", vae["drawn_dB"] >= 30),
        ("strokes kept by the autoencoder", f"{vae['strokes_kept']:.1%}", "≥ 80 %", vae["strokes_kept"] >= 0.8),
    ]  # fmt: skip
    lines = ((claim, measured, marked(asked, reached)) for claim, measured, asked, reached in rows)
    return markdown(["The miniature", "measured", "target"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.miniature", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--taught", type=int, default=2500, help="drawn scenes that the classifier is taught with")
    parser.add_argument("--sweeps", type=int, default=16)
    parser.add_argument("--out", type=Path, default=HERE / "miniature.json")
    parser.add_argument("--blind", type=Path, metavar="FOLDER", help="write blind sheets and their key, nothing else")
    parser.add_argument("--strength", type=float, help="of the blind sheets (default: the recorded recommended one)")
    parser.add_argument("--count", type=Path, metavar="FOLDER", help="record what was named, nothing else")
    parser.add_argument("--reader", default="one person", help="who named it")
    arguments = parser.parse_args()

    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.count:
        before["blind"] = count(arguments.count, arguments.reader)
        arguments.out.write_text(json.dumps(before, indent=1) + "\n")
        return
    painter = load_pipeline("miniature", device="cpu")
    if arguments.blind:
        recommended = before.get("d_composition_stays", {}).get("recommended_strength", 1.0)
        blind(painter, recommended if arguments.strength is None else arguments.strength, arguments.blind)
        return
    rng = np.random.default_rng(203)
    prompts = [describe_with(scene_of(203, i), rng, held_out=True)[0] for i in range(arguments.sweeps)]
    grown, stayed, rows = strength(painter, prompts)
    recognised, pictures = recognition(painter, stayed["recommended_strength"], arguments.pictures, arguments.taught)
    result = {
        "a_recognition": recognised,
        "b_strength_zero": strength_zero(painter, prompts[:4]),
        "c_strokes_grow": grown,
        "d_composition_stays": stayed,
        "e_adapter": adapter(),
        "autoencoder": autoencoder(painter, 48),
        "provenance": dataclasses.asdict(painter.provenance),
        "seconds": taken(),
        **surroundings(processor(), ("torch", "diffusers", "peft", "transformers")),
    }
    card = f"---\nlicense: mit\nbase_model: miniature\nrecommended_strength: {stayed['recommended_strength']}\n---\n"
    (names.MINIATURE_ADAPTER / "README.md").write_text(card)
    if before.get("provenance") == result["provenance"] and "blind" in before:
        result["blind"] = before["blind"]
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    contact_sheet(pictures, rows).save(arguments.out.with_suffix(".jpg"), quality=90)
    print(table(result))


if __name__ == "__main__":
    main()

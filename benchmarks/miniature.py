"""What the bundled miniature must show: `python -m benchmarks.miniature [--pictures 200]` (about 5 minutes on
two CPU cores) writes miniature.json and, to look at, miniature.jpg.

(a) A small classifier that was taught on drawn scenes finds in generated pictures the subject (≥ 90 %) and the light
    (≥ 85 %) that the prompt asked for, in phrasings no training saw.
(b) Strength 0 is the base model, bit for bit.
(c) The stroke statistic grows with strength 0 → 1.25: Spearman ≥ 0.9 for a prompt in the mean.
(d) At strength 1 the composition stays: correlation of the low-frequency luminance with strength 0 ≥ 0.8 in the mean.
(e) The adapter took ≤ 20 minutes to train and ≤ 3 MB on disk.
And of the autoencoder: ≥ 30 dB on drawn scenes; a painted scene keeps ≥ 80 % of its stroke statistic.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
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

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
HERE = Path(__file__).parent


def scenes(folder: Path, count: int, seed: int, *options: str) -> list[dict]:
    """Scenes drawn by `tools.miniature.scenes` into `folder`; their records."""
    command = [sys.executable, "-m", "tools.miniature.scenes", folder, "--count", count, "--seed", seed, *options]
    subprocess.run([str(part) for part in command], check=True)
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def pixels(folder: Path, records: list[dict]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / record["file_name"])) for record in records])


def asking(painter: Painter, prompt: str, seed: int) -> GenerationParams:
    return dataclasses.replace(defaults(painter, prompt), seed=seed)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(count, height, width, 3) uint8 → (count, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def small(pictures: np.ndarray) -> torch.Tensor:
    """(count, side, side, 3) uint8 → (count, 3, 96, 96) in [-1, 1]."""
    halved = [cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA) for picture in pictures]
    return to_tensor(np.stack(halved))


class Classifier(nn.Module):
    """Tells subject and light from a picture of 96 x 96 px."""

    def __init__(self, subjects: int, lights: int) -> None:
        super().__init__()
        layers, before = [], 3
        for width in (24, 48, 96, 128):
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleList([nn.Linear(9 * before, subjects), nn.Linear(9 * before, lights)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(x)
        return self.heads[0](x), self.heads[1](x)


def teach(pictures: torch.Tensor, labels: torch.Tensor, epochs: int = 14) -> Classifier:
    """A classifier of drawn scenes, (count, 3, 96, 96) with (count, 2) labels; blur and noise make it look at form."""
    torch.manual_seed(0)
    model = Classifier(*(labels.max(0).values + 1).tolist())
    batch = 48
    steps = epochs * len(pictures) // batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="classifier"):
        index = torch.randint(len(pictures), (batch,))
        x = pictures[index]
        if torch.rand(1) < 0.5:
            x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
        x = x + 0.1 * torch.rand(1) * torch.randn_like(x)
        loss = sum(F.cross_entropy(answer, label) for answer, label in zip(model(x), labels[index].T, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def shares_right(model: Classifier, pictures: torch.Tensor, labels: torch.Tensor) -> list[float]:
    answers = torch.stack([answer.argmax(-1) for answer in model(pictures)], -1)
    return [round(share, 4) for share in (answers == labels).float().mean(0).tolist()]


def recognition(painter: Painter, count: int, taught: int) -> tuple[dict, list[Image.Image]]:
    """(a), and the pictures for the contact sheet."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        drawn = scenes(root / "drawn", taught, 200)
        asked = scenes(root / "asked", 2 * count, 201, "--held-out")
        subjects, lights = (sorted({r[key] for r in drawn}) for key in ("subject", "light"))

        def labels(records: list[dict]) -> torch.Tensor:
            return torch.tensor([[subjects.index(r["subject"]), lights.index(r["light"])] for r in records])

        model = teach(small(pixels(root / "drawn", drawn)), labels(drawn))
        own = shares_right(model, small(pixels(root / "asked", asked)), labels(asked))
    asked = [record for record in asked if "light" in record["says"]][:count]
    pictures = [
        paint(painter, asking(painter, record["text"], 1000 + i), strength=0.0)
        for i, record in enumerate(tqdm(asked, desc="pictures"))
    ]
    found = shares_right(model, small(np.stack([np.asarray(p) for p in pictures])), labels(asked))
    figures = {
        "pictures": len(asked),
        "subject": found[0],
        "light": found[1],
        "classifier_on_unseen_drawings": {"subject": own[0], "light": own[1]},
        "reached": found[0] >= 0.9 and found[1] >= 0.85,
    }
    return figures, pictures


def low_luminance(picture: Image.Image) -> np.ndarray:
    return cv2.GaussianBlur(np.asarray(picture.convert("L"), np.float32), (0, 0), 8).ravel()


def strength(painter: Painter, prompts: list[str]) -> tuple[dict, dict, list[list[Image.Image]]]:
    """(c) and (d), and the sweeps for the contact sheet."""
    rows, ranks, kept, curves = [], [], [], []
    for seed, prompt in enumerate(tqdm(prompts, desc="sweeps")):
        sampling = asking(painter, prompt, seed)
        row = [picture for _, picture in sweep(painter, sampling, STRENGTHS)]
        strokes = [stroke_statistic(np.asarray(picture)) for picture in row]
        ranks.append(spearmanr(STRENGTHS, strokes).statistic)
        kept.append(np.corrcoef(low_luminance(row[0]), low_luminance(row[STRENGTHS.index(1.0)]))[0, 1])
        curves.append(strokes)
        rows.append(row)
    grown = {
        "prompts": len(prompts),
        "strengths": STRENGTHS,
        "stroke_statistic": np.round(np.mean(curves, 0), 3).tolist(),
        "spearman_mean": round(float(np.mean(ranks)), 4),
        "spearman_least": round(float(np.min(ranks)), 4),
        "reached": bool(np.mean(ranks) >= 0.9),
    }
    stayed = {
        "prompts": len(prompts),
        "correlation_mean": round(float(np.mean(kept)), 4),
        "correlation_least": round(float(np.min(kept)), 4),
        "reached": bool(np.mean(kept) >= 0.8),
    }
    return grown, stayed, rows


def strength_zero(painter: Painter, prompts: list[str]) -> dict:
    """(b): against a pipeline that never loaded an adapter."""
    bare = load_pipeline("miniature", adapter="none", device="cpu")
    samplings = [asking(painter, prompt, 50 + i) for i, prompt in enumerate(prompts)]
    same = [
        paint(painter, s, 0.0).tobytes() == paint(bare, s, 0.0).tobytes() == compare(painter, s, 1.0)[0].tobytes()
        for s in samplings
    ]
    return {"pictures": len(same), "identical": sum(same), "reached": all(same)}


@torch.no_grad()
def autoencoder(painter: Painter, count: int) -> dict:
    vae = painter.pipe.vae
    decibels, kept = {}, 0.0
    for kind, options in (("drawn", ()), ("painted", ("--painted",))):
        with tempfile.TemporaryDirectory() as folder:
            pictures = pixels(Path(folder), scenes(Path(folder), count, 202, *options))
        x = to_tensor(pictures)
        y = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(8)]).clamp(-1, 1)
        decibels[kind] = round(float(10 * torch.log10(4 / (x - y).square().mean())), 2)
        if kind == "painted":
            again = ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            kept = np.mean([stroke_statistic(b) / stroke_statistic(a) for a, b in zip(pictures, again, strict=True)])
    return {
        "pictures": count,
        "drawn_dB": decibels["drawn"],
        "painted_dB": decibels["painted"],
        "strokes_kept": round(float(kept), 4),
        "reached": bool(decibels["drawn"] >= 30 and kept >= 0.8),
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
        "reached": run["seconds"] <= 1200 and size <= 3e6,
    }


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


def table(result: dict) -> str:
    """The figures as the README shows them."""
    a, b, c, d, e = (result[key] for key in sorted(result) if key[1] == "_")
    vae = result["autoencoder"]
    rows = [
        (f"subject recognised in {a['pictures']} pictures, by a classifier of drawn scenes", f"{a['subject']:.1%}",
         "≥ 90 %", a["subject"] >= 0.9),
        ("light recognised, likewise", f"{a['light']:.1%}", "≥ 85 %", a["light"] >= 0.85),
        ("strength 0 is the base, bit for bit", f"{b['identical']} of {b['pictures']}", "all", b["reached"]),
        ("strokes grow with strength (Spearman, mean)", f"{c['spearman_mean']:.3f}", "≥ 0.9", c["reached"]),
        ("composition kept at strength 1 (correlation)", f"{d['correlation_mean']:.3f}", "≥ 0.8", d["reached"]),
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
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--taught", type=int, default=2500, help="drawn scenes that the classifier is taught with")
    parser.add_argument("--sweeps", type=int, default=16)
    parser.add_argument("--out", type=Path, default=HERE / "miniature.json")
    arguments = parser.parse_args()

    painter = load_pipeline("miniature", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        prompts = [r["text"] for r in scenes(Path(folder), arguments.sweeps, 203, "--held-out")]
    recognised, pictures = recognition(painter, arguments.pictures, arguments.taught)
    grown, stayed, rows = strength(painter, prompts)
    result = {
        "a_recognition": recognised,
        "b_strength_zero": strength_zero(painter, prompts[:4]),
        "c_strokes_grow": grown,
        "d_composition_stays": stayed,
        "e_adapter": adapter(),
        "autoencoder": autoencoder(painter, 64),
        "provenance": dataclasses.asdict(painter.provenance),
        "seconds": taken(),
        **surroundings(processor(), ("torch", "diffusers", "peft", "transformers")),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    contact_sheet(pictures, rows).save(arguments.out.with_suffix(".jpg"), quality=90)
    print(table(result))


if __name__ == "__main__":
    main()

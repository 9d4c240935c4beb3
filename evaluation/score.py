"""What the adapter does, in numbers: scores.json for the dashboard and the card, and a row a picture.

python -m evaluation score runs/NAME --real FOLDER --training FOLDER

The headline is the gap closed, (adapter - base) / (real - base): 0 is the base model, 1 a real painting that no
training saw. Prompts are the unit: pictures of one are averaged, intervals are drawn over prompts, and the p values of
one question are corrected together.
"""

import dataclasses
import platform
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from PIL import Image

from evaluation.candidates import choose, gather
from evaluation.evidence import ScoreInputs, Table, collect, files_of
from evaluation.intervals import bootstrap, gap_closed
from evaluation.learned import learned_rows
from evaluation.metrics import is_worth, recommended
from evaluation.prompt_set import PromptSet, digest
from evaluation.rows import corrected, distinct, weightless
from impressionism.hub import digest_of, label
from impressionism.paint import open_image
from impressionism.records import AtStrength, Estimate, Metric, Scores

SHOWN = 12  # of the best, of the worst, and of real paintings
THUMBNAIL = 256  # pixels, of a picture that is not the gallery's


def score(
    run: Path,
    *,
    real: Path,
    training: Path | None = None,
    candidates: Sequence[Path] = (),
    features: Sequence[str] | None = None,
    device: str = "auto",
) -> None:
    """Writes RUN/pictures.parquet, real.parquet, references/ and, last, scores.json."""
    began = time.perf_counter()
    evidence = collect(run, real, training)
    rows = corrected(weightless(evidence) + learned_rows(evidence, real, features, device))
    curve = strength_curve(evidence)
    strength, low, high = recommended(curve, bootstrap(evidence.real["index"].to_numpy()))
    best, worst = extremes(evidence)
    file = run / "gallery" / "prompts.yaml"
    prompts = PromptSet.read(file)
    scores = Scores(
        run=run.resolve().name,
        provenance=evidence.exhibits[0].recipe.provenance,
        prompt_set=f"{prompts.name}, version {prompts.version}",
        prompt_set_sha256=digest(file),
        prompts=int(evidence.pictures["prompt"].nunique()),
        seeds=int(evidence.pictures["seed"].nunique()),
        real=f"{label(real)}, {len(evidence.real)} pictures, content {digest_of(*files_of(real))}",
        metrics=rows,
        arms={arm: bootstrap(evidence.column("index", arm)) for arm in evidence.pictures["arm"].unique()},
        curve=curve,
        strength=strength,
        strength_low=low,
        strength_high=high,
        best=best,
        worst=worst,
        seconds=round(time.perf_counter() - began, 1),
        machine=f"{platform.system()}, {platform.machine()}, Python {platform.python_version()}",
        versions={name: metadata.version(name) for name in ("numpy", "scipy", "opencv-python-headless", "torch")},
    )
    found = gather(run, scores, evidence.pictures, candidates)
    scores = dataclasses.replace(scores, candidates=found, choice=choose(found))
    write(evidence, real, scores)
    print(f"{verdict(scores)}\n{run / 'scores.json'}")


# ---- What the numbers say


def row_of(scores: Scores, name: str) -> Metric:
    return next(row for row in scores.metrics if row.name == name)


def is_better(scores: Scores) -> bool:
    """Whether the adapter is worth it at its recommended strength."""
    return is_worth(scores.recommended.gap_closed, scores.recommended.content)


def verdict(scores: Scores) -> str:
    """The scores in a sentence or two."""
    point, own = scores.recommended, row_of(scores, "index").gap_closed
    closed = point.gap_closed
    if not closed:
        return "No better than the base: the index does not tell real paintings from its pictures."
    share = (f"{closed.value:.0%} [{closed.low:.0%}, {closed.high:.0%}] of the gap between the base and real "
             f"paintings; its composition correlates with the base's by {point.content.value:.2f}")  # fmt: skip
    if not is_better(scores):
        return f"No better than the base: at its best strength, {point.strength:g}, the adapter closes {share}."
    beyond = (f" At the strength of the gallery it is overdone: {own.value:.0%}. To show it at its best, run `gallery` "
              f"with --strength {point.strength:g}, then `score` again.") if own and own.low > 1 else ""  # fmt: skip
    return f"At strength {point.strength:g} the adapter closes {share}.{beyond}"


def strength_curve(evidence: ScoreInputs) -> list[AtStrength]:
    """The plain prompt at every strength; only noises that are painted at all of them, so that points compare."""
    pictures = evidence.pictures[evidence.pictures["arm"].isin(["base", "adapter"])]
    strengths = sorted(pictures["strength"].unique())
    counts = pictures.groupby(["prompt", "seed"])["strength"].transform("nunique")
    shared = pictures[counts == len(strengths)]
    base = by_prompt(shared, 0.0, "index")
    real = evidence.real["index"].to_numpy()
    return [
        AtStrength(
            strength=float(strength),
            index=bootstrap(by_prompt(shared, strength, "index")),
            content=bootstrap(by_prompt(shared, strength, "content")),
            diversity=diversity(evidence, strength),
            gap_closed=gap_closed(base, by_prompt(shared, strength, "index"), real) if strength else None,
        )
        for strength in strengths
    ]


def by_prompt(pictures: Table, strength: float, column: str) -> dict[str, list[float]]:
    return pictures[pictures["strength"] == strength].groupby("prompt")[column].apply(list).to_dict()


def diversity(evidence: ScoreInputs, strength: float) -> Estimate | None:
    """Effective number of pictures a prompt over the base's; None where a prompt was painted from one noise only."""
    base, own = evidence.rows("base"), evidence.rows("adapter" if strength else "base", strength)
    if len(own) < len(base) or evidence.pictures["seed"].nunique() < 2:
        return None
    before, after = (distinct(evidence, evidence.vectors["layout"], rows) for rows in (base, own))
    return bootstrap({prompt: after[prompt][0] / before[prompt][0] for prompt in before})


def extremes(evidence: ScoreInputs, count: int = SHOWN) -> tuple[list[str], list[str]]:
    """Files of the pairs that gained most and least: of each genre the first, then by rank over all. The showcase
    has a best, a worst and a middle of each genre by the same gain (showcase.choose)."""
    adapted = evidence.pictures.loc[evidence.rows("adapter")].sort_values("gain")
    return ranked(adapted[::-1], count), ranked(adapted, count)


def ranked(pictures: Table, count: int) -> list[str]:
    leaders = pictures.drop_duplicates("genre")
    others = pictures.drop(leaders.index).head(max(0, count - len(leaders)))
    chosen = {*leaders["file"], *others["file"]}
    return [file for file in pictures["file"] if file in chosen]


# ---- Files


def write(evidence: ScoreInputs, real: Path, scores: Scores) -> None:
    """The tables, small copies of the paintings that the dashboard shows, and the scores last."""
    run = evidence.run
    evidence.pictures.to_parquet(run / "pictures.parquet", index=False)
    evidence.real.to_parquet(run / "real.parquet", index=False)
    some = files_of(real)
    thumbnails(some[:: max(1, len(some) // SHOWN)][:SHOWN], run / "references" / "real")
    if "nearest" in evidence.pictures:
        wanted = set(evidence.pictures["nearest"])
        thumbnails((file for file in evidence.training if file.name in wanted), run / "references" / "training")
    (run / "scores.json").write_text(scores.to_json() + "\n", encoding="utf-8")


def thumbnails(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        picture = open_image(file).convert("RGB")
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        picture.save(folder / f"{file.name}.webp", quality=80)

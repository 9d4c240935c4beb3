"""Our trainer beside diffusers' own FLUX LoRA script, on the same models, pictures and settings, in float32.

    git clone https://github.com/huggingface/diffusers; pip install torchvision
    python -m benchmarks.training --diffusers diffusers

(a quarter of an hour on two quick CPU cores) writes training.json. The peer is examples/dreambooth/
train_dreambooth_lora_flux.py; it imports torchvision, which nothing of ours does. Both run as their users run them,
each several times in turn:

- on the bundled miniature, whose prior is real: seconds a sample, memory, and the loss on held-out pictures; the peer
  also without its latent cache, which pairs latents with the captions of other pictures;
- on a random FLUX of 207 M parameters and FLUX's own head size, for seconds and memory at a size where they matter.

Ours runs with compiled blocks too, which the script does not offer; the seconds of compiling stand by themselves. A
second is one of the loop, from the progress bar's first count to its last, so that start-up is left out and whatever a
trainer does on the way is in; how many times as fast ours is, is told by the turns' own ratios. Memory is the
process's peak of resident memory, up to the last step and of the whole process, less that of one which only imports
what that side imports. To be reached: at least 1.3 times the speed, at most 0.7 of the memory, a lower held-out loss.
"""

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image
from safetensors import safe_open
from tqdm import tqdm
from transformers import CLIPTextModel

from benchmarks.full_size import planned
from benchmarks.gpu_training import matmul_rate
from benchmarks.measure import Memory, Ratio, lines_of, markdown, marked, parser, progress, ratio, record
from benchmarks.miniature import scenes
from impressionism import names, plots

SCRIPT = Path("examples/dreambooth/train_dreambooth_lora_flux.py")
NOT_MEASURED = {
    "examples/research_projects/flux_lora_quantization": "wants a GPU: diffusers refuses to quantize to NF4 without one"
}
TOKENS = 32  # the miniature's text encoders take no more
CLIP_TOKENS = 77  # the peer pads to as many, whatever the tokenizer says
SIGMAS = (0.125, 0.375, 0.625, 0.875)
LAYERS = (  # the peer's default
    "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0",
    "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
)  # fmt: skip
OURS_BESIDE = {r"^single_transformer_blocks\.\d+\.proj_": 0}  # `all` has these too, the peer's default does not
LIBRARIES = {  # that a side imports; ours reads a plain folder without `datasets`
    "ours": "accelerate, diffusers, peft, torch, transformers",
    "theirs": "accelerate, datasets, diffusers, peft, torch, torchvision, transformers",
}
IDLE = """
import {libraries}
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Settings:
    """What both trainers are told."""

    rank: int = 16
    rate: float = 1e-3
    batch: int = 4
    steps: int = 100
    resolution: int = 192
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """One run of one trainer, in seconds and bytes."""

    seconds_per_sample: float
    """With compiled blocks, less what compiling took."""
    seconds: float
    """Time of the whole process: start-up, caching, training, saving."""
    first: float
    """Time of the first step, in which blocks are compiled where they are."""
    training_peak: int
    """Resident memory, at most, up to the last step."""
    peak: int
    """The same to the process's end."""


# ---- What both train on


def write_model(folder: Path, transformer: dict | None = None) -> Path:
    """The miniature in `folder`, with a random transformer of that configuration if one is given. Its CLIP gets
    positions for the peer's padding; nothing attends to them, so the embeddings are the same."""
    shutil.copytree(names.MINIATURE, folder, ignore=shutil.ignore_patterns("adapter"))
    clip: Any = CLIPTextModel.from_pretrained(folder / "text_encoder")
    known = clip.state_dict()
    [name] = [name for name in known if name.endswith("position_embedding.weight")]
    known[name] = torch.nn.functional.pad(known[name], (0, 0, 0, CLIP_TOKENS - len(known[name])))
    clip.config.max_position_embeddings = CLIP_TOKENS
    longer = CLIPTextModel(clip.config).to(clip.dtype)
    longer.load_state_dict(known)
    longer.save_pretrained(folder / "text_encoder")
    if transformer:
        shutil.rmtree(folder / "transformer")
        torch.manual_seed(0)
        model: Any = FluxTransformer2DModel(**transformer)
        model.to(torch.bfloat16)  # as FLUX.1-dev is kept
        model.save_pretrained(folder / "transformer")
    return folder


def medium() -> dict:
    """207 M parameters in FLUX's proportions: its head, a third of its width, 3 + 6 blocks for 19 + 38."""
    kept = json.loads((names.MINIATURE / "transformer" / "config.json").read_text())
    shape = {"attention_head_dim": 128, "num_attention_heads": 8, "num_layers": 3, "num_single_layers": 6}
    known = {key: value for key, value in kept.items() if not key.startswith("_")}
    return known | shape | {"axes_dims_rope": (16, 56, 56)}


# ---- The two trainers


def ours(settings: Settings, model: Path, pictures: Path, folder: Path, *, compiled: bool = False) -> list[str]:
    """The command that leaves an adapter in folder/adapter."""
    recipe = {
        "model": {"base": str(model), "quantize": "none", "dtype": "float32", "device": "cpu",
                  "max_sequence_length": TOKENS, "compile": compiled},
        "data": {"source": str(pictures), "resolution": settings.resolution, "held_out": 0.0},
        "adapter": {"rank": settings.rank, "targets": "all", "ranks": OURS_BESIDE, "dtype": "float32"},
        "flow": {"sigmas": "logit-normal", "shift": 1.0, "guidance": 1.0},
        "optimizer": {"rate": settings.rate, "steps": settings.steps, "batch": settings.batch},
        "run": {"folder": str(folder), "cache": str(folder / "cache"), "seed": settings.seed,
                "checkpoint_every": settings.steps},
    }  # fmt: skip
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe))
    return [sys.executable, "-m", "training", "fit", str(file)]


def theirs(
    settings: Settings, model: Path, pictures: Path, folder: Path, checkout: Path, *, cached: bool
) -> list[str]:  # fmt: skip
    """The command that leaves an adapter in folder/adapter."""
    options = {
        "pretrained_model_name_or_path": model, "max_sequence_length": TOKENS, "guidance_scale": 1.0,
        "dataset_name": pictures, "caption_column": "text", "resolution": settings.resolution,
        "rank": settings.rank, "lora_alpha": settings.rank, "lora_layers": ",".join(LAYERS),
        "weighting_scheme": "logit_normal", "learning_rate": settings.rate, "lr_warmup_steps": 0,
        "adam_weight_decay": 0.0, "max_train_steps": settings.steps, "train_batch_size": settings.batch,
        "instance_prompt": "a painting", "output_dir": folder / "adapter", "seed": settings.seed,
        "cache_dir": folder / "cache", "mixed_precision": "no",
    }  # fmt: skip
    given = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, str(checkout / SCRIPT), *given, *["--cache_latents"][:cached]]


def watch(command: list[str], bar: str, batch: int) -> Measured:
    """Run a trainer and read its progress bar and its memory; neither trainer starts other processes."""
    begun, counts, said, training_peak = time.monotonic(), {}, [], 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0)
    with Memory(process.pid) as memory:
        for line in lines_of(process.stderr):
            said = [*said[-30:], line]
            if (seen := progress(line, bar)) and seen[0] not in counts:
                counts[seen[0]] = time.monotonic()
                if seen[0] == seen[1]:
                    memory.look()
                    training_peak = memory.resident
    if process.wait() or not training_peak:
        raise SystemExit(f"{' '.join(command[:4])} … failed:\n" + "\n".join(said))
    first, second, *_ = sorted(counts)
    last = max(counts)
    per_sample = (counts[last] - counts[first]) / (last - first) / batch
    took_first = counts[second] - counts[first]
    return Measured(per_sample, time.monotonic() - begun, took_first, training_peak, memory.resident)


def warm(compiled: Measured, plain: Measured, samples: int) -> Measured:
    """As if the blocks were compiled before: its first step takes as long as that of the run without."""
    saved = (compiled.first - plain.first) / samples
    return dataclasses.replace(compiled, seconds_per_sample=compiled.seconds_per_sample - saved)


def commit_of(checkout: Path) -> str:
    """The checkout's commit; marked where the script was changed since."""
    git = ["git", "-C", str(checkout)]
    if not (checkout / SCRIPT).is_file():
        raise SystemExit(f"There is no {SCRIPT} in {checkout}: give --diffusers a checkout of huggingface/diffusers.")
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", str(SCRIPT)]).returncode
    return commit + (" (changed)" if changed else "")


def idle(libraries: str) -> int:
    """Bytes of a process that has only imported these."""
    said = subprocess.run(
        [sys.executable, "-c", IDLE.format(libraries=libraries)], check=True, capture_output=True, text=True
    ).stdout
    return int(said) * 1024


def same_layers(ours: Path, theirs: Path) -> bool:
    """Whether two adapters change the same layers at the same ranks."""
    shapes = []
    for folder in (ours, theirs):
        with safe_open(folder / names.WEIGHTS_FILE, framework="pt") as file:
            shapes.append({key: file.get_slice(key).get_shape() for key in file.keys()})  # noqa: SIM118 - it is no dict
    return shapes[0] == shapes[1]


# ---- The held-out loss


@dataclass(frozen=True)
class Judge:
    """The flow-matching loss on pictures that no side saw: their mean latents, always the same noise and levels."""

    pipe: FluxPipeline
    x: torch.Tensor  # (pictures, tokens, channels)
    noise: torch.Tensor
    image_ids: torch.Tensor
    text: torch.Tensor  # (pictures, text tokens, channels)
    pooled: torch.Tensor
    text_ids: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: Path, pictures: Path, records: list[dict]) -> "Judge":
        pipe: Any = FluxPipeline.from_pretrained(model, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        images = pipe.image_processor.preprocess([Image.open(pictures / record["file_name"]) for record in records])
        latents = pipe.vae.encode(images).latent_dist.mean
        latents = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        text, pooled, text_ids = pipe.encode_prompt([r["text"] for r in records], None, max_sequence_length=TOKENS)
        x, noise = (pipe._pack_latents(part, *latents.shape) for part in (latents, noise))
        height, width = latents.shape[-2:]
        ids = pipe._prepare_latent_image_ids(1, height // 2, width // 2, x.device, x.dtype)
        return cls(pipe, x, noise, ids, text, pooled, text_ids)

    @torch.no_grad()
    def loss(self, adapter: Path | None = None) -> float:
        """Held-out loss of the base, or of the base with an adapter."""
        if adapter:
            self.pipe.load_lora_weights(str(adapter))
        losses = [self._loss(sigma, part) for sigma in SIGMAS for part in torch.arange(len(self.x)).split(8)]
        if adapter:
            self.pipe.unload_lora_weights()
        return float(torch.cat(losses).mean())

    def _loss(self, sigma: float, part: torch.Tensor) -> torch.Tensor:
        x, noise = self.x[part], self.noise[part]
        level = torch.full((len(part),), sigma)
        prediction = self.pipe.transformer(
            hidden_states=(1 - sigma) * x + sigma * noise, encoder_hidden_states=self.text[part],
            pooled_projections=self.pooled[part], timestep=level, guidance=torch.ones_like(level),
            img_ids=self.image_ids, txt_ids=self.text_ids, return_dict=False,
        )[0]  # fmt: skip
        return (prediction - (noise - x)).square().mean((1, 2))


# ---- Side by side


def compare(
    model: Path, pictures: Path, settings: Settings, checkout: Path, *, sides: tuple[str, ...], repeats: int,
    judge: Judge | None,
) -> dict:  # fmt: skip
    """The trainers in turn, `repeats` times; what each run took, and what its adapter loses."""
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    rates: list[float] = []
    losses: dict[str, list[float]] = {side: [] for side in sides}
    for seed in tqdm(range(repeats), desc=model.name):
        now = dataclasses.replace(settings, seed=seed)
        turn: dict[str, Measured] = {}
        folders = {side: model.parent / f"{model.name}-{seed}" / side for side in sides}
        for side in sides[seed % len(sides) :] + sides[: seed % len(sides)]:
            folder = folders[side]
            folder.mkdir(parents=True)
            if side.startswith("ours"):
                command, bar = ours(now, model, pictures, folder, compiled=side == "ours_compiled"), str(folder)
            else:
                command, bar = theirs(now, model, pictures, folder, checkout, cached=side == "theirs"), "Steps"
            turn[side] = watch(command, bar, settings.batch)
        turn["ours_compiled"] = warm(turn["ours_compiled"], turn["ours"], settings.steps * settings.batch)
        rates.append(matmul_rate("cpu"))
        for side in sides:
            runs[side].append(dataclasses.asdict(turn[side]))
            if not same_layers(folders["ours"] / "adapter", folders[side] / "adapter"):
                raise SystemExit("The adapters change different layers: the settings are not equal.")
            if judge:
                losses[side].append(judge.loss(folders[side] / "adapter"))
    products = {
        "operations": planned(folders["ours"].with_suffix(".yaml"))["operations"],
        "rate": statistics.median(rates),
    }
    return {"settings": dataclasses.asdict(settings), "runs": runs, "held_out": losses, "products": products}


def medians(part: dict, idle: dict[str, int]) -> dict:
    """For each side: seconds a sample, memory of training and of the whole process, and both beyond a process that only
    imports what that side does, the loss."""
    found: dict[str, dict] = {}
    for side, runs in part["runs"].items():
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        imported = idle[side.partition("_")[0]]
        found[side] = middle | {
            "training_memory": middle["training_peak"] - imported,
            "memory": middle["peak"] - imported,
        }
        if losses := part["held_out"][side]:
            found[side]["held_out_loss"] = statistics.median(losses)
    return found


def faster(runs: dict[str, list[dict]], side: str = "ours") -> Ratio:
    """How many times as fast ours is, or another side."""
    mine, theirs = ([run["seconds_per_sample"] for run in runs[each]] for each in (side, "theirs"))
    return ratio(theirs, mine)


def table(result: dict) -> str:
    rows = []
    for name, part in result["models"].items():
        ours, theirs = (part["medians"][side] for side in ("ours", "theirs"))
        rows.append(speed(f"{name}: a sample", ours, theirs, part["faster"]))
        matmuls = part["products"]["operations"] / part["products"]["rate"] / part["settings"]["batch"]  # seconds
        shares = (f"{matmuls / side['seconds_per_sample']:.0%}" for side in (ours, theirs))
        rows.append((f"{name}: share of the step spent in matrix multiplication", *shares))
        first = max(run["first"] for run in part["runs"]["ours_compiled"])
        label = f"{name}: a sample with our blocks compiled (compiling takes up to {first:.0f} s)"
        rows.append(speed(label, part["medians"]["ours_compiled"], theirs, part["faster_compiled"]))
        for label, key in (("memory of training", "training_memory"), ("memory of the whole process", "memory")):
            memory = (f"{side[key] / 1e6:.0f} MB" for side in (ours, theirs))
            share = ours[key] / theirs[key]
            rows.append((f"{name}: {label}", *memory, f"{share:.2f} of it", marked("≤ 0.7", share <= 0.7)))
        if base := part["base_held_out"]:
            losses = [part["medians"][side]["held_out_loss"] for side in ("ours", "theirs", "theirs_uncached")]
            mine, cached, uncached = (f"{loss:.4f}" for loss in losses)
            rows.append((f"{name}: held-out loss, {base:.4f} before", mine, f"{cached} ({uncached} without its cache)",
                         f"{losses[0] - losses[1]:+.4f}", marked("lower", losses[0] < losses[1])))  # fmt: skip
    return markdown(["Training", "ours", "diffusers' script", "", "target"], rows)


def speed(label: str, mine: dict, theirs: dict, faster: Sequence[float]) -> tuple[str, ...]:
    """A row of seconds per sample."""
    times = Ratio(*faster)
    seconds = (f"{side['seconds_per_sample']:.3f} s" for side in (mine, theirs))
    return label, *seconds, f"{times.text('.2f')} × faster", times.judged("≥ 1.3", 1.3, least=True)


def plot(result: dict) -> bytes:
    """Ours as a share of the script's: seconds with their interval, and memory."""
    figure, axes = plots.canvas(3.0)
    targets = {"seconds per sample": 1 / 1.3, "memory of training": 0.7, "memory of\nthe whole process": 0.7}
    models = zip((-0.16, 0.16), (plots.BLUE, plots.ORANGE), result["models"].items(), strict=True)
    for aside, colour, (name, part) in models:
        middle, low, high = (1 / times for times in part["faster"])
        ours, theirs = (part["medians"][side] for side in ("ours", "theirs"))
        shares = [middle, *(ours[key] / theirs[key] for key in ("training_memory", "memory"))]
        axes.bar([where + aside for where in range(3)], shares, 0.3, color=colour, label=name)
        axes.errorbar(aside, middle, [[middle - high], [low - middle]], color=plots.GREY, capsize=4)
    axes.axhline(1, color=plots.GREY, linewidth=0.8, label="diffusers' script")
    axes.hlines(list(targets.values()), [-0.4, 0.6, 1.6], [0.4, 1.4, 2.4], "black", "dashed", label="target")
    axes.set(ylabel="ours, as a share", xticks=range(3), xticklabels=targets)
    return plots.png(figure)


def main() -> None:
    options = parser("training", __doc__, repeats=5)
    options.add_argument("--diffusers", type=Path, required=True, metavar="FOLDER", help="a checkout of diffusers")
    options.add_argument("--steps", type=int, nargs=2, default=(64, 16), metavar=("SMALL", "MEDIUM"))
    options.add_argument("--pictures", type=int, nargs=2, default=(64, 32), metavar=("TRAINED", "HELD-OUT"))
    arguments = options.parse_args()
    commit = commit_of(arguments.diffusers)
    nothing = {side: idle(libraries) for side, libraries in LIBRARIES.items()}
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(root / "compiled")  # the first run finds nothing there
        trained, kept_back = arguments.pictures
        scenes(root / "pictures", trained, 300, "--painted")
        unseen = scenes(root / "unseen", kept_back, 301, "--painted", "--held-out")
        small, large = (
            Settings(steps=steps, batch=batch) for steps, batch in zip(arguments.steps, (4, 1), strict=True)
        )
        for name, transformer, settings, sides in (
            ("miniature", None, small, ("ours", "theirs", "ours_compiled", "theirs_uncached")),
            ("medium", medium(), large, ("ours", "theirs", "ours_compiled")),
        ):
            model = write_model(root / name, transformer)
            judge = None if transformer else Judge.of(model, root / "unseen", unseen)
            part = compare(model, root / "pictures", settings, arguments.diffusers, sides=sides,
                           repeats=arguments.repeats, judge=judge)  # fmt: skip
            models[name] = part | {"base_held_out": judge and judge.loss(), "medians": medians(part, nothing),
                                   "faster": faster(part["runs"]),
                                   "faster_compiled": faster(part["runs"], "ours_compiled")}  # fmt: skip
    result = {
        "models": models,
        "idle_memory": nothing,
        "peer": {"repository": "huggingface/diffusers", "commit": commit, "script": str(SCRIPT)},
        "not_measured": NOT_MEASURED,
    }
    record(arguments.out, result, LIBRARIES["theirs"].split(", "), table)


if __name__ == "__main__":
    main()

"""How training grows with resolution, rank and the number of pictures, and whether the data path keeps up.

    python -m benchmarks.growth

(about 5 minutes on two CPU cores) writes growth.json. Steps are those of a random FLUX of 207 M parameters in float32,
one sample each; pictures are read, cut to their bucket and encoded by the bundled miniature's autoencoder, which is so
small that a slow data path shows. Beside it stands one of FLUX.1-dev's size, with random weights.
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from benchmarks.miniature import scenes
from benchmarks.process import Memory, processor, surroundings, taken
from benchmarks.tables import markdown, marked
from benchmarks.training import LIBRARIES, Settings, idle, medium, ours, watch, write_model
from impressionism import names, pictorial

HERE = Path(__file__).parent
RESULT = HERE / "growth.json"
RESOLUTIONS = (128, 192, 256, 384)
RANKS = (4, 16, 64)
PICTURES = (200, 2_000, 20_000)
SIDE = 64  # pixels of the many pictures
FLAT = 2_000  # bytes that a picture may keep in memory: its record
FEW = 8  # pictures for a few steps
FLUX_AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 16,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


def training(root: Path, steps: int) -> dict:
    """Seconds a sample and memory, by resolution at rank 16 and by rank at 192 pixels."""
    pictures = noise(root / "noise", FEW, max(RESOLUTIONS))
    model = write_model(root / "medium", medium())
    usual = Settings(steps=steps, batch=1)
    found: dict[str, dict] = {"resolution": {}, "rank": {}}
    for what, values in (("resolution", RESOLUTIONS), ("rank", RANKS)):
        for value in values:
            if (what, value) == ("rank", usual.rank):
                found[what][value] = found["resolution"][usual.resolution]
                continue
            folder = root / f"{what}-{value}"
            folder.mkdir()
            settings = dataclasses.replace(usual, **{what: value})
            measured = watch(ours(settings, model, pictures, folder), str(folder), 1)
            found[what][value] = dataclasses.asdict(measured)
    return found


def cached(root: Path) -> dict:
    """`cache` over more and more pictures: seconds a picture and memory; then two steps of `fit`, whose order is drawn
    over all of them. No entry is kept once it is read."""
    found = {}
    for count in PICTURES:
        pictures = noise(root / f"pictures-{count}", count, SIDE)
        settings = Settings(steps=2, batch=4, resolution=SIDE)
        (root / f"run-{count}").mkdir()
        command = ours(settings, names.MINIATURE, pictures, root / f"run-{count}")
        filled, filling = measured([*command[:3], "cache", *command[4:]])
        again, _ = measured([*command[:3], "cache", *command[4:]])
        trained, training = measured(command)
        found[count] = {
            "seconds": filled, "seconds_again": again, "memory": filling.resident,
            "fit_seconds": trained, "fit_memory": training.resident,
        }  # fmt: skip
    return found


def noise(folder: Path, count: int, side: int) -> Path:
    """Pictures of one caption, none like another and none easier for an encoder than a painting."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{number}.jpg")
            file.write(json.dumps({"file_name": f"{number}.jpg", "text": "a boat"}) + "\n")
    return folder


def measured(command: list[str]) -> tuple[float, Memory]:
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Memory(process.pid) as memory:
        if process.wait():
            raise SystemExit(f"{' '.join(command[1:])} failed; run it to see why.")
    return time.monotonic() - begun, memory


def data_path(root: Path, count: int) -> dict:
    """Pictures a second through `cache` beside the autoencoder alone; the rate is that of the pictures which many have
    beyond few, so that neither start-up nor imports count."""
    seconds = {}
    for number in (count // 8, count):
        pictures, folder = root / f"scenes-{number}", root / f"path-{number}"
        records = scenes(pictures, number, 302, "--painted")
        folder.mkdir()
        command = ours(Settings(), names.MINIATURE, pictures, folder)
        seconds[number], _ = measured([*command[:3], "cache", *command[4:]])
    few, many = seconds.values()
    path = (count - count // 8) / (many - few)
    images = [Image.open(pictures / record["file_name"]).convert("RGB") for record in records]
    own: Any = AutoencoderKL.from_pretrained(names.MINIATURE / "vae", torch_dtype=torch.float32)
    large: Any = AutoencoderKL(**FLUX_AUTOENCODER)
    return {
        "cache": path, "autoencoder": count / encoded(own, images),
        "flux_autoencoder": 8 / encoded(large, images[:8]), "statistics": statistics(images[:24]),
    }  # fmt: skip


@torch.no_grad()
def encoded(vae: Any, images: list[Image.Image]) -> float:
    """Seconds of the autoencoder alone, on pictures that are in memory already."""
    tensor = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 127.5 - 1
    begun = time.monotonic()
    for batch in tensor.split(2):  # more at once take longer on a CPU
        vae.encode(batch)
    return time.monotonic() - begun


def statistics(images: list[Image.Image]) -> float:
    """Pictures a second and core whose pictorial statistics are computed."""
    begun = time.process_time()  # of all cores together
    for image in images:
        pictorial.index(pictorial.measure(image))
    return len(images) / (time.process_time() - begun)


def table(result: dict) -> str:
    steps, pictures = [], []
    for what, unit in (("resolution", "{} px, rank 16"), ("rank", "rank {}, 192 px")):
        for value, found in result["training"][what].items():
            beyond = (found["training_peak"] - result["idle_memory"]) / 1e6
            steps.append((unit.format(value), f"{found['seconds_per_sample']:.2f}", f"{beyond:.0f} MB"))
    kinds = ("memory", "fit_memory")
    for count, found in result["pictures"].items():
        each = (found["seconds"] - found["seconds_again"]) / int(count) * 1000
        memory = (f"{(found[key] - result['idle_memory']) / 1e6:.0f} MB" for key in kinds)
        pictures.append((f"{int(count):,}", f"{each:.1f} ms", *memory))
    few, many = list(result["pictures"])[-2:]
    more = [(result["pictures"][many][key] - result["pictures"][few][key]) / (int(many) - int(few)) for key in kinds]
    flat = marked(f"≤ {FLAT / 1000:.0f} kB", max(more) <= FLAT)
    pictures.append((f"memory a picture, beyond {int(few):,}", "", *(f"{each / 1000:.1f} kB" for each in more), flat))
    data = {
        "cache": "pictures through the data path: intake, bucket and cache",
        "autoencoder": "pictures through the miniature's autoencoder alone",
        "flux_autoencoder": "pictures through one of FLUX.1-dev's size alone",
        "statistics": "pictures whose statistics are computed, a core",
    }
    path = result["data_path"]
    rows = [[told, f"{path[key]:.1f}"] for key, told in data.items()]
    rows[1].append(marked("≤ the data path", path["autoencoder"] <= path["cache"]))
    rows[2].append(marked("≤ the data path", path["flux_autoencoder"] <= path["cache"]))
    tables = [
        markdown(["Training a FLUX of 207 M parameters", "seconds a sample", "memory"], steps),
        markdown(["Pictures", "to cache one", "memory of `cache`", "memory of `fit`", "asked"], pictures),
        markdown(["Data, 192 px, two cores", "a second", "asked"], rows),
    ]
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=256, help="pictures for the data path")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        result = {
            "idle_memory": idle(LIBRARIES["ours"]),
            "data_path": data_path(root, arguments.scenes),
            "training": training(root, arguments.steps),
            "pictures": cached(root),
        }
    result |= {"seconds": taken()} | surroundings(processor(), ("torch", "diffusers", "peft"))
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(json.loads(json.dumps(result))))


if __name__ == "__main__":
    main()

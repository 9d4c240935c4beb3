"""How `cache` and `fit` grow with the number of pictures, and whether the data path keeps up with the autoencoder.

    python -m benchmarks.growth

(about 4 minutes on two CPU cores) writes growth.json. Pictures are read, cropped to their bucket and encoded by the
miniature's autoencoder, which is so small that a slow data path would show. An autoencoder of FLUX.1-dev's size, with
random weights, is measured beside it.
"""

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

from benchmarks.measure import Memory, markdown, marked, parser, record
from benchmarks.miniature import scenes
from benchmarks.training import LIBRARIES, Settings, idle, ours
from impressionism import names, pictorial

PICTURES = (200, 2_000, 20_000)
SIDE = 64  # pixels of the many pictures
RECORD = 2_000  # bytes of memory that a picture's record may take
FLUX_AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 16,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


def cached(root: Path) -> dict:
    """Seconds and memory of `cache` over more and more pictures, then of two steps of `fit`, whose order is drawn over
    all of them."""
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
    """Random pictures with one caption."""
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
    """Pictures per second through `cache` and through the autoencoder alone. The rate comes from the difference between
    a large and a small set, so that start-up and imports do not count."""
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
    """Seconds of the autoencoder alone, on pictures already in memory."""
    tensor = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 127.5 - 1
    begun = time.monotonic()
    for batch in tensor.split(2):  # more at once take longer on a CPU
        vae.encode(batch)
    return time.monotonic() - begun


def statistics(images: list[Image.Image]) -> float:
    """Pictures per second and core whose pictorial statistics are computed."""
    begun = time.process_time()  # of all cores together
    for image in images:
        pictorial.index(image)
    return len(images) / (time.process_time() - begun)


def table(result: dict) -> str:
    pictures, kinds = [], ("memory", "fit_memory")
    for count, row in result["pictures"].items():
        each = (row["seconds"] - row["seconds_again"]) / int(count) * 1000
        memory = (f"{(row[key] - result['idle_memory']) / 1e6:.0f} MB" for key in kinds)
        pictures.append((f"{int(count):,}", f"{each:.1f} ms", *memory))
    few, many = list(result["pictures"])[-2:]
    more = [(result["pictures"][many][key] - result["pictures"][few][key]) / (int(many) - int(few)) for key in kinds]
    target = marked(f"≤ {RECORD / 1000:.0f} kB", max(more) <= RECORD)
    growth = (f"{each / 1000:.1f} kB" for each in more)
    pictures.append((f"memory per picture beyond {int(few):,}", "", *growth, target))
    path, flux = result["data_path"], "one of FLUX.1-dev's size"
    rows = [
        ("pictures read, cropped, encoded and cached", f"{path['cache']:.1f}"),
        ("the miniature's autoencoder alone", f"{path['autoencoder']:.1f}"),
        (f"{flux} alone", f"{path['flux_autoencoder']:.1f}",
         marked("≤ the data path", path["flux_autoencoder"] <= path["cache"])),
        ("pictures whose statistics are computed, one core", f"{path['statistics']:.1f}"),
    ]  # fmt: skip
    return "\n\n".join(
        [
            markdown(["Pictures", "to cache one", "memory of `cache`", "memory of `fit`", "target"], pictures),
            markdown(["Data path at 192 px, two cores", "per second", "target"], rows),
        ]
    )


def main() -> None:
    arguments = parser("growth", __doc__, scenes=256).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        result = {
            "idle_memory": idle(LIBRARIES["ours"]),
            "data_path": data_path(root, arguments.scenes),
            "pictures": cached(root),
        }
    record(arguments.out, result, ("torch", "diffusers", "peft"), table)


if __name__ == "__main__":
    main()

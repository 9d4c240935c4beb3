"""Training and painting at FLUX.1-dev's full size on a card, with random weights; writes gpu.json.

    python -m benchmarks.gpu [--folder work/gpu] [--diffusers diffusers] [--only training painting]

(about twenty minutes on an H200; 24 GB of disk, better of memory: --folder /dev/shm/flux). Speed and memory do not
depend on the weights' values; the encoders and the autoencoder are small here, so that a picture's seconds are the
transformer's. --diffusers is a checkout of huggingface/diffusers, whose NF4 LoRA script, examples/research_projects/
flux_lora_quantization/train_dreambooth_lora_flux_miniature.py, trains beside ours; it wants torchvision.

A run that fails, for lack of memory above all, is a row that says so, and each row is kept as soon as it is there; the
same command goes on with those that are missing or failed.
`--tiny` goes the same way with a tiny model on any device, to see that the scripts work; it writes nothing beside it.
What is measured stands in gpu_training.py and gpu_painting.py.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import full_size
from benchmarks.gpu_painting import painting, painting_plot, painting_table
from benchmarks.gpu_scale import FULL, SMALL, Scale
from benchmarks.gpu_training import TOKENS, diffusers, diffusers_table, training, training_table
from benchmarks.measure import parser, surroundings, write

PARTS = {"training": training, "diffusers": diffusers, "painting": painting}


def table(result: dict) -> str:
    parts = []
    if "training" in result:
        parts.append(training_table(result["training"]))
    if "diffusers" in result and "training" in result:
        parts.append(diffusers_table(result["diffusers"], result["training"]["rows"]))
    if "painting" in result:
        parts.append(painting_table(result["painting"]))
    return "\n\n".join(parts)


def plot(result: dict) -> bytes:
    return painting_plot(result["painting"])


def main() -> None:
    options = parser("gpu", __doc__)
    options.add_argument("--folder", type=Path, default=Path("work/gpu"), help="for the weights; kept")
    options.add_argument("--diffusers", type=Path, metavar="FOLDER", help="a checkout of diffusers, to train beside it")
    options.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS))
    options.add_argument("--tiny", action="store_true", help="the same with a tiny model, to try the script")
    arguments = options.parse_args()
    if arguments.tiny:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "gpu.json"
            measure(Path(folder), SMALL, arguments.only, full_size.TINY, arguments.diffusers, out)
            print(table(json.loads(out.read_text())))
        return
    if not torch.cuda.is_available():
        sys.exit("This machine has no CUDA device that PyTorch can use; --tiny tries the script without one.")
    measure(arguments.folder.absolute(), FULL, arguments.only, full_size.FLUX, arguments.diffusers, arguments.out)
    print(table(json.loads(arguments.out.read_text())))


def measure(folder: Path, scale: Scale, only: tuple[str, ...], pipe: dict, checkout: Path | None, out: Path) -> None:
    """Part after part; what there is of a part is kept at once, and one that fails leaves the others alone."""
    card = torch.cuda.get_device_name() if scale.device == "cuda" else "a CPU"
    here = {"card": card, **surroundings(card, ("torch", "diffusers", "peft", "bitsandbytes"))}
    result: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    if result and {key: result.get(key) for key in here} != here:
        raise SystemExit(f"{out} is of another machine or other versions; give --out another file.")
    result = here | result
    write_base(folder, scale, pipe)

    def keep(name: str, part: Any) -> None:
        result[name] = part
        write(out, result)

    for name in only:
        begun = time.monotonic()
        try:
            PARTS[name](folder, scale, result.get(name, {}), lambda part, name=name: keep(name, part), checkout)
        except (OSError, RuntimeError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def write_base(folder: Path, scale: Scale, pipe: dict) -> None:
    """All of it or none, unless it is there."""
    if not (folder / "flux").exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        full_size.write(partial, pipe, TOKENS, scale.resolutions[-1])
        partial.rename(folder)


if __name__ == "__main__":
    main()

"""Builds the bundled miniature from nothing: `python -m training.miniature [--out FOLDER] [--work FOLDER]`.

Stages: draw and paint the scenes · autoencoder · text encoders · transformer · its guidance · the folder that
FluxPipeline loads · the adapter, by the ordinary recipe. Each stage keeps its state in the work folder: stop the
build at any moment and start it again. It uses a GPU when there is one.
"""

import argparse
import shutil
from pathlib import Path

STEPS = {"straight": 2000, "autoencoder": 1100, "text": 800, "transformer": 2600, "guidance": 160, "adapter": 400}
SCENES = {"drawn": 2000, "painted": 2000, "taught": 5600, "style": 320}
SEEDS = {"drawn": 1, "painted": 2, "taught": 3, "style": 4}  # apart, so that no stage sees another's scenes


def build(out: Path, work: Path, steps: dict[str, int], scenes: dict[str, int]) -> None:
    from training.miniature import assemble, autoencoder, text, transformer
    from training.miniature import scenes as sets

    def pictures(name: str, painted: bool):
        return sets.pictures(work / f"{name}.npy", seed=SEEDS[name], count=scenes[name], painted=painted)

    vae = autoencoder.train(
        pictures("drawn", False), pictures("painted", True), work, steps["straight"], steps["autoencoder"]
    )
    reader, clip, t5 = text.train(work / "text.pt", steps["text"])
    latents = transformer.normalise(vae, transformer.encode(vae, pictures("taught", False), work / "latents.pt"))
    batches = transformer.Batches(latents, SEEDS["taught"], text.Frozen(reader, clip, t5))
    base = transformer.train(batches, work, steps["transformer"])
    student = transformer.distill(base, batches, work, steps["guidance"])
    assemble.save(out, student, vae, reader, clip, t5)
    if not (work / "style" / "metadata.jsonl").exists():
        sets.write_folder(work / "style", seed=SEEDS["style"], count=scenes["style"], painted=True)
    assemble.train_adapter(out, work, steps["adapter"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.miniature", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("impressionism/miniature"))
    parser.add_argument(
        "--work", type=Path, default=Path("work/miniature"), help="where the stages keep their state"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the state and begin again")
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of everything: does it run? (2 minutes)"
    )
    arguments = parser.parse_args()
    if arguments.fresh:
        shutil.rmtree(arguments.work, ignore_errors=True)
    quick = arguments.quick
    build(
        arguments.out,
        arguments.work,
        {stage: 3 if quick else count for stage, count in STEPS.items()},
        {name: 24 if quick else count for name, count in SCENES.items()},
    )


if __name__ == "__main__":
    main()

"""Builds the bundled miniature: `python -m tools.miniature [--out FOLDER] [--work FOLDER]`.

`--further 3000` takes what is bundled and trains its transformer for 3,000 more steps, then its guidance and new
adapters. The bundled transformer was made so on one core with AMX in two turns, 4,700 steps and 700 of guidance, then
4,600 and 800 (80 minutes beside other work), from one of an earlier build (1,750 steps of 512 scenes, six minutes of an
H200), which its autoencoder and text encoders come from. By mistake the first turn ran with text encoders whose
attention saw no position and no mask; so the bundled T5 has no position bias, and the bundled CLIP was fitted to give
the same sentences the same vectors (0.1 % of the variance off).

Stages: draw and paint the scenes · autoencoder · text encoders · transformer · its guidance · the folder that
FluxPipeline loads · the style adapter, by the ordinary recipe · the few-step adapter. Each stage keeps its state in the
work folder: stop the build at any moment and start it again. It uses a GPU when there is one.
"""

import argparse
import shutil
from pathlib import Path

# On a GPU the batches are larger: BATCH in autoencoder.py, text.py and transformer.py.
STEPS = {
    "cpu": {
        "straight": 2000, "autoencoder": 1100, "text": 800, "transformer": 8000, "guidance": 700, "adapter": 500,
        "accelerator": 200,
    },
    "cuda": {
        "straight": 550, "autoencoder": 2150, "text": 700, "transformer": 20000, "guidance": 3000, "adapter": 500,
        "accelerator": 2000,
    },
}  # fmt: skip
# "paths" counts the batches that the few-step adapter learns from.
SCENES = {"drawn": 2000, "painted": 2000, "style": 1200, "paths": 12}
# Of the adapter's scenes more show what strokes dissolve most easily.
STYLE = {"windmill": 3.0, "parasol": 2.0, "lilies": 1.6, "bridge": 1.4, "orchard": 1.4, "church": 1.3}
SEEDS = {"drawn": 1, "painted": 2, "style": 4}  # apart, so that no stage sees another's scenes
BUNDLE = Path("impressionism/miniature")


def build(out: Path, work: Path, steps: dict[str, int], scenes: dict[str, int], further: bool, quick: bool) -> None:
    from tools.miniature import accelerator, assemble, autoencoder, loop, text, transformer
    from tools.miniature.scenes import pictures, scene_of, write_folder
    from tools.miniature.world import all_scenes

    loop.prepare()
    if further:
        start, vae, encoders = assemble.load(out)
    else:
        some = {name: [scene_of(SEEDS[name], i) for i in range(scenes[name])] for name in ("drawn", "painted")}
        drawn = pictures(work / "drawn.npy", some["drawn"])
        painted = pictures(work / "painted.npy", some["painted"], painted=True)
        vae = autoencoder.train(drawn, painted, work, steps["straight"], steps["autoencoder"])
        start, encoders = None, text.train(work / "text.pt", steps["text"])
    world = all_scenes()[:24] if quick else all_scenes()
    latents = transformer.encode(vae, pictures(work / "taught.npy", world), work / "latents.pt")
    batches = transformer.Batches(world, transformer.normalise(vae, latents), encoders)
    base = transformer.train(batches, work, steps["transformer"], start)
    guided = transformer.guide(base, batches, work, steps["guidance"])
    assemble.save(out, guided, vae, encoders)
    if not (work / "style" / "metadata.jsonl").exists():
        write_folder(work / "style", seed=SEEDS["style"], count=scenes["style"], painted=True, weights=STYLE)
    assemble.train_adapter(out, work, steps["adapter"])
    accelerator.train(out, work, steps["accelerator"], scenes["paths"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.miniature", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=BUNDLE, help="the built folder")
    parser.add_argument("--work", type=Path, default=Path("work/miniature"), help="where the stages keep their state")
    parser.add_argument("--fresh", action="store_true", help="forget the state and begin again")
    parser.add_argument("--further", type=int, metavar="STEPS", help="train the transformer in --out further")
    parser.add_argument("--quick", action="store_true", help="3 steps of everything, to see that it runs")
    chosen = parser.parse_args()
    if chosen.further is not None and chosen.further < 1:
        parser.error("--further wants a number of steps, 1 or more.")
    if chosen.quick and chosen.out == BUNDLE:
        parser.error("--quick makes a model that has learnt nothing: name another folder with --out.")

    from tools.miniature import loop

    steps, scenes = dict(STEPS[loop.device().type]), dict(SCENES)
    if chosen.further:
        steps["transformer"] = chosen.further
    if chosen.quick:
        steps, scenes = dict.fromkeys(steps, 3), dict.fromkeys(scenes, 24) | {"paths": 1}
    work = chosen.work / ("further" if chosen.further else "") / ("quick" if chosen.quick else "")
    if chosen.fresh:
        shutil.rmtree(work, ignore_errors=True)
    build(chosen.out, work, steps, scenes, further=bool(chosen.further), quick=chosen.quick)
    if chosen.further:
        shutil.rmtree(work)  # the next --further starts from what is built now


if __name__ == "__main__":
    main()

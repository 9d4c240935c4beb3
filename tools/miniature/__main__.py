"""Builds the bundled miniature from nothing: `python -m tools.miniature [--out FOLDER] [--work FOLDER]`.

`--further 1000` takes what is bundled and trains its transformer for 1,000 more steps, then its guidance and a new
adapter.

Stages: draw and paint the scenes · autoencoder · text encoders · transformer · its guidance · the folder that
FluxPipeline loads · the adapter, by the ordinary recipe. Each stage keeps its state in the work folder: stop the
build at any moment and start it again. It uses a GPU when there is one. The bundled base's stages took six minutes of
an H200 together, in two goes; two CPU cores want three hours.
"""

import argparse
import shutil
from pathlib import Path

# The bundled base is a GPU's, whose steps have larger batches: BATCH in autoencoder.py, text.py and transformer.py. Its
# adapter was trained on a CPU.
STEPS = {
    "cpu": {"straight": 2000, "autoencoder": 1100, "text": 800, "transformer": 5900, "guidance": 160, "adapter": 350},
    "cuda": {"straight": 550, "autoencoder": 2150, "text": 700, "transformer": 1750, "guidance": 250, "adapter": 350},
}
SCENES = {
    "cpu": {"drawn": 2000, "painted": 2000, "taught": 8000, "style": 320},
    "cuda": {"drawn": 4000, "painted": 4000, "taught": 24000, "style": 320},
}
SEEDS = {"drawn": 1, "painted": 2, "taught": 3, "style": 4}  # apart, so that no stage sees another's scenes
BUNDLE = Path("impressionism/miniature")


def build(out: Path, work: Path, steps: dict[str, int], scenes: dict[str, int], further: bool) -> None:
    from tools.miniature import assemble, autoencoder, loop, text, transformer
    from tools.miniature import scenes as sets

    loop.prepare()

    def pictures(name: str, painted: bool):
        return sets.pictures(work / f"{name}.npy", seed=SEEDS[name], count=scenes[name], painted=painted)

    if further:
        start, vae, encoders = assemble.load(out)
    else:
        start, drawn, painted = None, pictures("drawn", False), pictures("painted", True)
        vae = autoencoder.train(drawn, painted, work, steps["straight"], steps["autoencoder"])
        encoders = text.train(work / "text.pt", steps["text"])
    latents = transformer.normalise(vae, transformer.encode(vae, pictures("taught", False), work / "latents.pt"))
    batches = transformer.Batches(latents, SEEDS["taught"], encoders)
    base = transformer.train(batches, work, steps["transformer"], start)
    student = transformer.distill(base, batches, work, steps["guidance"])
    assemble.save(out, student, vae, encoders)
    if not (work / "style" / "metadata.jsonl").exists():
        sets.write_folder(work / "style", seed=SEEDS["style"], count=scenes["style"], painted=True)
    assemble.train_adapter(out, work, steps["adapter"])


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

    steps, scenes = dict(STEPS[loop.device().type]), dict(SCENES[loop.device().type])
    if chosen.further:
        steps["transformer"] = chosen.further
    if chosen.quick:
        steps, scenes = dict.fromkeys(steps, 3), dict.fromkeys(scenes, 24)
    work = chosen.work / ("further" if chosen.further else "") / ("quick" if chosen.quick else "")
    if chosen.fresh:
        shutil.rmtree(work, ignore_errors=True)
    build(chosen.out, work, steps, scenes, further=bool(chosen.further))
    if chosen.further:
        shutil.rmtree(work)  # the next --further starts from what is built now


if __name__ == "__main__":
    main()

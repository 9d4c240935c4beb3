"""Sets of scenes on disk: pixels as one array, so that every stage reads the same pictures without drawing twice.

`python -m tools.miniature.scenes FOLDER --count 100 [--painted]` writes some as files with captions.
"""

import argparse
import dataclasses
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tools.miniature.brush import paint_over
from tools.miniature.captions import describe_with
from tools.miniature.world import Scene, draw, random_scene


def scene_of(seed: int, index: int, weights: dict[str, float] | None = None) -> Scene:
    return random_scene(np.random.default_rng([seed, index]), weights)


def _picture(job: tuple[Scene, int | None]) -> np.ndarray:
    scene, brush_seed = job
    picture = draw(scene)
    return picture if brush_seed is None else paint_over(picture, seed=brush_seed)


def pictures(path: Path, scenes: list[Scene], *, painted: bool = False) -> np.ndarray:
    """(count, side, side, 3) uint8: the scenes, drawn or painted; kept at `path`."""
    if path.exists() and len(kept := np.load(path, mmap_mode="r")) == len(scenes):
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    jobs = [(scene, index if painted else None) for index, scene in enumerate(scenes)]
    shape = (len(jobs), *_picture(jobs[0]).shape)
    kept = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    with ProcessPoolExecutor() as pool:
        for index, picture in enumerate(tqdm(pool.map(_picture, jobs, chunksize=32), total=len(jobs), desc=path.stem)):
            kept[index] = picture
    kept.flush()
    partial.replace(path)
    return np.load(path, mmap_mode="r")


def write_folder(
    folder: Path,
    *,
    seed: int,
    count: int,
    painted: bool,
    held_out: bool = False,
    weights: dict[str, float] | None = None,
) -> None:
    """The same scenes as PNG files with a `metadata.jsonl`: file_name, text (the caption), and what the scene is.

    With `held_out` the captions are phrased as none that the miniature was taught with; `weights` says which subjects
    come more often.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in tqdm(range(count), desc=folder.name):
        name, scene = f"{index:05d}.png", scene_of(seed, index, weights)
        Image.fromarray(_picture((scene, index if painted else None))).save(folder / name)
        caption, said = describe_with(scene, np.random.default_rng([seed, index, 1]), held_out=held_out)
        lines.append({"file_name": name, "text": caption, "says": sorted(said), **dataclasses.asdict(scene)})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.miniature.scenes", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=100, help="the miniature was taught with seeds below 100")
    parser.add_argument("--painted", action="store_true", help="as brush strokes, not as a drawing")
    parser.add_argument("--held-out", action="store_true", help="captions in phrasings that no training saw")
    write_folder(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()

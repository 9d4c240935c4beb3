"""Latents and text embeddings on disk, so that no VAE and no text encoder is in memory while training.

    python -m training cache training/recipes/miniature.yaml [section.key=value …]

`cache/<fingerprint>/latents/<sample>-<width>x<height>.safetensors` holds a picture's moments (mean, logvar),
so that each visit draws anew; `text/<caption's SHA-256>.safetensors` holds what T5 and CLIP make of it. The
fingerprint covers the encoders, their precision and the picture transform. So an entry is never stale and
never belongs to another sample; what exists is not made again, and writing may stop at any moment. Each entry has a
digest, which is checked before every run: a damaged one is made again.
"""

import functools
import gc
import hashlib
import itertools
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from impressionism import names
from impressionism.errors import UserError, counted
from impressionism.files import write_atomic
from impressionism.hub import PIPELINE_FILES, folder_of, sha256_of, without_bars
from impressionism.quantize import give_back_memory
from training import examples
from training.examples import Example
from training.footprint import CAPTIONS, together
from training.recipe import Model, TrainingConfig
from training.runtime import Runtime, resolve_runtime
from training.sources import say

BATCHES_AHEAD = 8  # that are decoded while the VAE is at work on those before them
ENCODERS = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class Cache:
    """Where entries lie. None is kept once read: the system has the files in memory as long as there is room."""

    def __init__(self, folder: Path):
        self.folder = folder

    def latents_file(self, example: Example) -> Path:
        width, height = example.size
        return self.folder / "latents" / f"{example.id}-{width}x{height}.safetensors"

    def text_file(self, caption: str) -> Path:
        return self.folder / "text" / f"{hashlib.sha256(caption.encode()).hexdigest()}.safetensors"

    def moments(self, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
        """(channels, height, width) mean and log variance of the picture's latents, in float32."""
        entry = load_file(self.latents_file(example))
        return entry["mean"], entry["logvar"]

    def text(self, caption: str) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, channels) of T5 and (channels,) of CLIP."""
        entry = load_file(self.text_file(caption))
        return entry["prompt_embeds"], entry["pooled_prompt_embeds"]


def cache(recipe: TrainingConfig) -> None:
    """The command."""
    fill(recipe)


def fill(recipe: TrainingConfig, runtime: Runtime | None = None) -> tuple[Cache, list[Example]]:
    """Encode what is missing or damaged, each process its share; the cache, and the examples that are in it."""
    examples.check_folders(recipe)
    runtime = runtime or resolve_runtime(recipe.model)
    usable = examples.read(recipe.data)
    folder = locate(recipe.model)
    cache = Cache(recipe.run.cache / fingerprint(recipe.model, folder, runtime.dtype))
    written = {text for example in usable for text in (example.caption, example.content) if text}
    captions = sorted({"", *written, *recipe.preview.prompts})
    mine = slice(runtime.rank, None, runtime.world)
    whole = _intact([*map(cache.latents_file, usable[mine]), *map(cache.text_file, captions[mine])])
    pictures = [example for example in usable[mine] if cache.latents_file(example) not in whole]
    texts = [caption for caption in captions[mine] if cache.text_file(caption) not in whole]
    if pictures:
        _encode_pictures(cache, pictures, folder, runtime)
    if texts:
        _encode_captions(cache, texts, folder, recipe.model.max_sequence_length, runtime)
    runtime.wait()
    usable = [example for example in usable if cache.latents_file(example).exists()]
    if not usable:
        raise UserError(f"No picture of {recipe.data.source} could be decoded; see the lines above.")
    there = "encoded now" if pictures or texts else "all there already"
    say(f"{cache.folder}: {counted(len(usable), 'picture')} and {counted(len(captions), 'caption')}, {there}.")
    return cache, usable


def _intact(files: list[Path]) -> set[Path]:
    """Those that are there and whole; a damaged one is removed, so that nothing reads it before it is made again."""
    there = [file for file in files if file.exists()]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets other threads run
        bar = tqdm(pool.map(_is_intact, there), total=len(there), desc="check", unit="entry", delay=2)
        intact = {file for file, whole in zip(there, bar, strict=True) if whole}
    if damaged := sorted(set(there) - intact):
        others = f" and {len(damaged) - 1} others" if damaged[1:] else ""
        say(f"Damaged in the cache and made again: {damaged[0]}{others}.")
    for file in damaged:
        file.unlink()
    return intact


def _is_intact(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as stored:
            entry = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  it is no dictionary
            return (stored.metadata() or {}).get("sha256") == _digest_of(entry)
    except (OSError, ValueError, SafetensorError):
        return False


def _digest_of(entry: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the names, types, shapes and numbers."""
    total = hashlib.sha256()
    for name, tensor in sorted(entry.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.view(torch.uint8).numpy().data)
    return total.hexdigest()


def locate(model: Model) -> Path:
    """The base model's folder on this machine; a Hub id is fetched first."""
    if model.base == "miniature":
        return names.MINIATURE
    return folder_of(model.base, model.revision, PIPELINE_FILES)


def digest(folder: Path, *parts: str) -> str:
    """SHA-256 over the files of a model's parts; the Hub's cache names a file by its digest."""
    total = hashlib.sha256()
    files = sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    for path in files:
        total.update(path.relative_to(folder).as_posix().encode())
        blob = path.resolve().name if path.is_symlink() else ""
        total.update(blob.encode() if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob) else sha256_of(path))
    return total.hexdigest()


def fingerprint(model: Model, folder: Path, dtype: torch.dtype) -> str:
    """What the entries depend on besides the sample itself."""
    if missing := [part for part in ENCODERS if not (folder / part).is_dir()]:
        raise UserError(f"{folder} is no FLUX model: it lacks {', '.join(missing)}.")
    what = [digest(folder, *ENCODERS), str(dtype), model.max_sequence_length, examples.TRANSFORM]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


@torch.no_grad()
def _encode_pictures(cache: Cache, pictures: list[Example], folder: Path, runtime: Runtime) -> None:
    from diffusers import AutoencoderKL  # late, because it takes seconds to import, and `plan` does without

    device, dtype = runtime.device, runtime.dtype
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=dtype).to(device)  # type: ignore[arg-type]
    with tqdm(total=len(pictures), desc="pictures", unit="picture") as bar:
        for batch, decoded in _decoded_ahead(_batches_of_one_size(pictures, device.type)):
            pairs = [(example, image) for example, image in zip(batch, decoded, strict=True) if image]
            if pairs:
                pixels = torch.from_numpy(np.stack([np.array(image) for _, image in pairs])).permute(0, 3, 1, 2)
                moments = vae.encode((pixels.float() / 127.5 - 1).to(device, dtype)).latent_dist
                for (example, _), mean, logvar in zip(pairs, moments.mean, moments.logvar, strict=True):
                    _write(cache.latents_file(example), {"mean": mean.float(), "logvar": logvar.float()})
            bar.update(len(batch))
    del vae
    free()


@torch.no_grad()
@without_bars()
def _encode_captions(
    cache: Cache, captions: list[str], folder: Path, max_sequence_length: int, runtime: Runtime
) -> None:
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(folder, transformer=None, vae=None, dtype=runtime.dtype).to(runtime.device)
    tokens = min(max_sequence_length, pipe.tokenizer_2.model_max_length)
    with tqdm(total=len(captions), desc="captions", unit="caption") as bar:
        for start in range(0, len(captions), CAPTIONS):
            batch = captions[start : start + CAPTIONS]
            embeds, pooled, _ = pipe.encode_prompt(prompt=batch, prompt_2=None, max_sequence_length=tokens)
            for caption, text, pool in zip(batch, embeds, pooled, strict=True):  # type: ignore[arg-type]
                _write(cache.text_file(caption), {"prompt_embeds": text, "pooled_prompt_embeds": pool})
            bar.update(len(batch))
    del pipe
    free()


def _batches_of_one_size(pictures: Iterable[Example], device: str) -> Iterator[list[Example]]:
    ordered = sorted(pictures, key=lambda example: example.size)
    for size, group in itertools.groupby(ordered, key=lambda example: example.size):
        remaining, count = list(group), together(size, device)
        yield from (remaining[start : start + count] for start in range(0, len(remaining), count))


def _decoded_ahead(batches: Iterable[list[Example]]) -> Iterator[tuple[list[Example], list[Image.Image | None]]]:
    """Batches with their pictures, decoded in other threads (Pillow lets them run) so that the VAE need not wait."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    waiting: deque[tuple[list[Example], list[Future]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(examples.decode, example) for example in batch]))
            if len(waiting) > BATCHES_AHEAD:
                first, decoding = waiting.popleft()
                yield first, [each.result() for each in decoding]
        for batch, decoding in waiting:
            yield batch, [each.result() for each in decoding]
    finally:
        pool.shutdown(cancel_futures=True)


def _write(path: Path, entry: dict[str, torch.Tensor]) -> None:
    entry = {key: tensor.cpu().contiguous().clone() for key, tensor in entry.items()}
    write_atomic(path, functools.partial(save_file, entry, metadata={"sha256": _digest_of(entry)}))


def free() -> None:
    """Gives back the memory of what nobody holds any more."""
    gc.collect()
    give_back_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

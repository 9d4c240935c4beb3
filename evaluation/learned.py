"""What pictures look like to CLIP, DINOv2 and PickScore, from the Hub; a row names the commit.

Where the weights cannot be had, their rows say so; nothing is left out in silence, and nothing counts as zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    Dinov2Model,
)

from evaluation.evidence import ScoreInputs, Vectors, real_pictures
from evaluation.rows import not_computed, rows_of
from impressionism.errors import UserError
from impressionism.files import read_picture
from impressionism.hub import commit_of, folder_of
from impressionism.pipeline import choose_device
from impressionism.records import Metric

CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BATCH = 8


@dataclass(frozen=True)
class FeatureExtractor:
    """A loaded extractor."""

    embed_images: Callable[[torch.Tensor], torch.Tensor]
    """(n, 3, side, side), normalised, to (n, d)."""
    side: int
    """Pixels of the square that the model sees."""
    resize: int
    """Pixels to which the short side is brought before the middle is cut out."""
    norm: tuple[tuple[float, float, float], tuple[float, float, float]]
    embed_texts: Callable[[list[str]], torch.Tensor] | None = None
    """Sentences to (n, d), where the model reads text."""


@dataclass(frozen=True)
class Extractor:
    """Where the weights are, and how they are loaded."""

    repository: str
    revision: str
    licence: str
    files: tuple[str, ...]
    load: Callable[[Path, str], FeatureExtractor]


# ---- From a folder to a loaded model


def clip(folder: Path, device: str) -> FeatureExtractor:
    """CLIP's image and text towers with their projections (Radford et al. 2021)."""
    vision: Any = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
    text: Any = CLIPTextModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
    vision.to(device)
    text.to(device)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    side = vision.config.image_size
    longest = text.config.max_position_embeddings

    def read(sentences: list[str]) -> torch.Tensor:
        tokens = tokenizer(sentences, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
        return text(**tokens).text_embeds

    return FeatureExtractor(lambda x: vision(x).image_embeds, side, side, CLIP_NORM, read)


def dinov2(folder: Path, device: str) -> FeatureExtractor:
    """DINOv2's class token (Oquab et al. 2023), from the 224 px in the middle of 256, as in its own evaluation."""
    model: Any = Dinov2Model.from_pretrained(folder, local_files_only=True).eval()
    model.to(device)
    side = 16 * model.config.patch_size
    return FeatureExtractor(lambda x: model(x).pooler_output, side, round(side * 8 / 7), IMAGENET_NORM)


EXTRACTORS = {
    "clip": Extractor(
        "openai/clip-vit-large-patch14",
        "32bd64288804d66eefd0ccbe215aa642df71cc41",
        "MIT, by its code; the weights declare none",
        ("*.json", "merges.txt", "model.safetensors"),
        clip,
    ),
    "dinov2": Extractor(
        "facebook/dinov2-base",
        "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        "Apache-2.0",
        ("config.json", "model.safetensors"),
        dinov2,
    ),
    "pickscore": Extractor(
        "yuvalkirstain/PickScore_v1",
        "main",
        "MIT, by its code; the weights declare none",
        ("*.json", "merges.txt", "model.safetensors"),
        clip,
    ),
}


# ---- From pictures to rows


def learned_rows(evidence: ScoreInputs, real: Path, names: Sequence[str] | None, device: str) -> list[Metric]:
    """The rows of every learned feature: computed for the names, or why they are not."""
    if unknown := sorted(set(names or ()) - set(EXTRACTORS)):
        raise UserError(f"There is no feature {', '.join(unknown)}; there are {', '.join(EXTRACTORS)}.")
    rows, device = [], choose_device(device)
    for name, extractor in EXTRACTORS.items():
        weights = f"{extractor.repository}@{extractor.revision[:12]}, {extractor.licence}"
        if names is not None and name not in names:
            rows += not_computed(name, "Not computed: not asked for (--features).", weights)
            continue
        try:
            folder = folder_of(extractor.repository, extractor.revision, list(extractor.files))
            loaded = extractor.load(folder, device)
        except (UserError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            why = str(error).split(":")[0].rstrip(".") if isinstance(error, UserError) else "they cannot be read"
            rows += not_computed(name, f"Not computed: weights unavailable ({why}).", weights)
            continue
        commit = (commit_of(folder) or extractor.revision)[:12]
        vectors = vectors_of(loaded, name, evidence, real, device)
        rows += rows_of(name, evidence, vectors, f"{extractor.repository}@{commit}, {extractor.licence}")
    return rows


def vectors_of(extractor: FeatureExtractor, name: str, evidence: ScoreInputs, real: Path, device: str) -> Vectors:
    files = [evidence.run / "gallery" / exhibit.file for exhibit in evidence.exhibits]
    return Vectors(
        embed_images(extractor, files, device, name),
        embed_images(extractor, real_pictures(real), device, name),
        texts=embed_texts(extractor, list(evidence.pictures["text"])) if extractor.embed_texts else None,
    )


@torch.no_grad()
def embed_images(extractor: FeatureExtractor, files: Sequence[Path], device: str, name: str) -> np.ndarray:
    """(files, d)."""
    found = []
    for start in tqdm(range(0, len(files), BATCH), desc=name, disable=len(files) <= BATCH):
        pictures = torch.stack([prepared(read_picture(file), extractor) for file in files[start : start + BATCH]])
        found.append(extractor.embed_images(pictures.to(device)).float().cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def embed_texts(extractor: FeatureExtractor, sentences: list[str]) -> np.ndarray:
    """(sentences, d); each different one is read once."""
    assert extractor.embed_texts is not None
    different = list(dict.fromkeys(sentences))
    found = dict(zip(different, extractor.embed_texts(different).float().cpu().numpy(), strict=True))
    return np.stack([found[sentence] for sentence in sentences])


def prepared(picture: Image.Image, extractor: FeatureExtractor) -> torch.Tensor:
    """(3, side, side): the middle of the picture, normalised."""
    scale = extractor.resize / min(picture.size)
    size = [max(extractor.side, round(side * scale)) for side in picture.size]
    left, top = ((whole - extractor.side) // 2 for whole in size)
    scaled = picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC)
    fitted = scaled.crop((left, top, left + extractor.side, top + extractor.side))
    pixels = torch.from_numpy(np.asarray(fitted, np.float32)) / 255
    mean, deviation = (torch.tensor(part) for part in extractor.norm)
    return ((pixels - mean) / deviation).permute(2, 0, 1)

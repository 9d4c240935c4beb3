"""What pictures look like to learned eyes: CLIP, DINOv2 and CSD, from the Hub at a pinned commit.

Where the weights cannot be had, their rows say so; nothing is left out in silence, and nothing counts as zero.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Model,
)

from evaluation.evidence import ScoreInputs, Vectors, files_of
from evaluation.rows import not_computed, rows_of
from impressionism.errors import UserError
from impressionism.hub import commit_of, folder_of
from impressionism.paint import open_image
from impressionism.pipeline import choose_device
from impressionism.records import Metric

CLIP_NORM = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BATCH = 8


@dataclass(frozen=True)
class FeatureExtractor:
    """A loaded extractor."""

    see: Callable[[torch.Tensor], torch.Tensor]
    """(n, 3, side, side), normalised, to (n, d)."""
    side: int
    norm: tuple[tuple[float, float, float], tuple[float, float, float]]
    read: Callable[[list[str]], torch.Tensor] | None = None
    """Sentences to (n, d), where the eye can read."""


@dataclass(frozen=True)
class Extractor:
    """Where an eye's weights are, and how they become one."""

    repository: str
    revision: str
    licence: str
    files: tuple[str, ...]
    load: Callable[[Path, str], FeatureExtractor]


# ---- From a folder to an eye


def clip(folder: Path, device: str) -> FeatureExtractor:
    """CLIP's image and text towers with their projections (Radford et al. 2021)."""
    vision: Any = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
    text: Any = CLIPTextModelWithProjection.from_pretrained(folder, local_files_only=True).eval()
    vision.to(device)
    text.to(device)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    longest = text.config.max_position_embeddings

    def read(sentences: list[str]) -> torch.Tensor:
        tokens = tokenizer(sentences, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(device)
        return text(**tokens).text_embeds

    return FeatureExtractor(lambda x: vision(x).image_embeds, vision.config.image_size, CLIP_NORM, read)


def dinov2(folder: Path, device: str) -> FeatureExtractor:
    """DINOv2's class token (Oquab et al. 2023)."""
    model: Any = Dinov2Model.from_pretrained(folder, local_files_only=True).eval()
    model.to(device)
    return FeatureExtractor(lambda x: model(x).pooler_output, 16 * model.config.patch_size, IMAGENET_NORM)


def csd(folder: Path, device: str) -> FeatureExtractor:
    """Contrastive Style Descriptors (Somepalli et al., arXiv 2404.01292): a CLIP tower with a style projection.

    A training checkpoint with the names of OpenAI's own CLIP. Its released weights do not reproduce the paper (its
    README says so), so its numbers count against real paintings only, never by themselves.
    """
    with torch.serialization.safe_globals([argparse.Namespace, *numpy_scalars()]):
        kept = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    weights = {key.removeprefix("module."): tensor for key, tensor in kept["model_state_dict"].items()}
    tower = {key.removeprefix("backbone."): w.float() for key, w in weights.items() if key.startswith("backbone.")}
    model: Any = CLIPVisionModel(config_of(tower))
    prefix = next(iter(model.state_dict())).split("embeddings.")[0]
    model.load_state_dict({prefix + key: tensor for key, tensor in renamed(tower)}, strict=True)
    style = weights["last_layer_style"].float().to(device)
    model.eval().to(device)
    return FeatureExtractor(lambda x: model(x).pooler_output @ style, model.config.image_size, CLIP_NORM)


def numpy_scalars() -> list:
    """What the checkpoint's optimizer state is made of; nothing else may be unpickled."""
    from numpy._core import multiarray

    scalar = multiarray.scalar
    return [np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtypes.Float64DType, np.dtypes.Int64DType]


def config_of(tower: dict[str, torch.Tensor]) -> CLIPVisionConfig:
    width, _, patch, _ = tower["conv1.weight"].shape
    grid = round((len(tower["positional_embedding"]) - 1) ** 0.5)
    layers = 1 + max(int(key.split(".")[2]) for key in tower if key.startswith("transformer.resblocks."))
    wide = len(tower["transformer.resblocks.0.mlp.c_fc.bias"])
    return CLIPVisionConfig(
        hidden_size=width, intermediate_size=wide, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        image_size=grid * patch, patch_size=patch, hidden_act="quick_gelu",
    )  # fmt: skip


NAMES = (  # OpenAI's → transformers'
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def renamed(tower: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tower's tensors as transformers calls them; query, key and value lie in one there."""
    for key, tensor in tower.items():
        if key == "proj":
            continue
        name = key
        for pattern, instead in NAMES:
            name = re.sub(pattern, instead, name)
        if "in_proj_" in name:
            for side, part in zip("qkv", tensor.chunk(3), strict=True):
                yield name.replace("in_proj_", f"{side}_proj."), part
        else:
            yield name, tensor


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
    "csd": Extractor(
        "tomg-group-umd/CSD-ViT-L",
        "5bc26a6fb0487f3f00a2a7313135103a005b1b67",
        "CC-BY-4.0",
        ("pytorch_model.bin",),
        csd,
    ),
}
# Copy detection by SSCD (Pizzi et al., CVPR 2022) would fit, but the Hub has its weights only as a third party's
# TorchScript: a program that runs when it is loaded, and of which no digest is known.
UNPINNED = {"sscd": "SSCD"}


# ---- From pictures to rows


def learned_rows(evidence: ScoreInputs, real: Path, names: Sequence[str] | None, device: str) -> list[Metric]:
    """The rows of every learned feature: computed for the names, or why they are not."""
    if strangers := sorted(set(names or ()) - set(EXTRACTORS)):
        raise UserError(f"There is no feature {', '.join(strangers)}; there are {', '.join(EXTRACTORS)}.")
    rows = []
    for name, extractor in EXTRACTORS.items():
        if names is None or name in names:
            rows += rows_of_extractor(name, evidence, real, choose_device(device))
        else:
            rows += not_computed(name, "Not computed: not asked for (--features).", told(extractor, None))
    for name, weights in UNPINNED.items():
        rows += not_computed(name, "Not computed: no pinned weights are known.", weights)
    return rows


def rows_of_extractor(name: str, evidence: ScoreInputs, real: Path, device: str) -> list[Metric]:
    extractor = EXTRACTORS[name]
    try:
        folder = folder_of(extractor.repository, extractor.revision, list(extractor.files))
        with readable():
            eye = extractor.load(folder, device)
    except UserError as error:
        why = str(error).split(":")[0].rstrip(".")
        return not_computed(name, f"Not computed: weights unavailable ({why}).", told(extractor, None))
    return rows_of(name, evidence, look(eye, name, evidence, real, device), told(extractor, commit_of(folder)))


@contextmanager
def readable() -> Iterator[None]:
    """Weights that are not what they should be, as a sentence."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"they cannot be read; {str(error).strip().splitlines()[0]}") from error
    except Exception as error:
        if "weights_only" not in str(error).lower():
            raise
        raise UserError("the checkpoint holds what may not be unpickled") from error


def look(eye: FeatureExtractor, name: str, evidence: ScoreInputs, real: Path, device: str) -> Vectors:
    files = [evidence.run / "gallery" / exhibit.file for exhibit in evidence.exhibits]
    return Vectors(
        see(eye, files, device, name),
        see(eye, files_of(real), device, name),
        texts=read(eye, list(evidence.pictures["text"])) if eye.read else None,
    )


@torch.no_grad()
def see(eye: FeatureExtractor, files: Sequence[Path], device: str, name: str) -> np.ndarray:
    """(files, d)."""
    found = []
    for start in tqdm(range(0, len(files), BATCH), desc=name, disable=len(files) <= BATCH):
        pictures = torch.stack([prepared(open_image(file), eye) for file in files[start : start + BATCH]])
        found.append(eye.see(pictures.to(device)).float().cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def read(eye: FeatureExtractor, sentences: list[str]) -> np.ndarray:
    """(sentences, d); each different one is read once."""
    assert eye.read is not None
    different = list(dict.fromkeys(sentences))
    found = dict(zip(different, eye.read(different).float().cpu().numpy(), strict=True))
    return np.stack([found[sentence] for sentence in sentences])


def prepared(picture: Image.Image, eye: FeatureExtractor) -> torch.Tensor:
    """(3, side, side): the middle of the picture, normalised."""
    fitted = ImageOps.fit(picture.convert("RGB"), (eye.side, eye.side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(fitted, np.float32)) / 255
    mean, deviation = (torch.tensor(part) for part in eye.norm)
    return ((pixels - mean) / deviation).permute(2, 0, 1)


def told(extractor: Extractor, commit: str | None) -> str:
    return f"{extractor.repository}@{(commit or extractor.revision)[:12]}, {extractor.licence}"

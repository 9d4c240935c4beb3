"""From pictures to vectors: those without weights, and the learned ones for real, on tiny random models from a Hub."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from galleries import make_gallery, make_paintings, scene, strokes
from hub import Hub
from PIL import Image
from tiny import clip_tokenizer
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from evaluation import features, learned
from evaluation.evidence import ScoreInputs, collect
from evaluation.learned import EXTRACTORS, learned_rows
from evaluation.metrics import correlations
from impressionism.errors import UserError
from impressionism.pictorial import to_lab
from impressionism.records import Metric

VISION = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1,
          "image_size": 28, "patch_size": 14, "hidden_act": "quick_gelu", "projection_dim": 16}  # fmt: skip


# ---- Without weights


def vector(name: str, picture: np.ndarray) -> np.ndarray:
    side = (features.SIDE, features.SIDE)
    return features.WEIGHTLESS[name](to_lab(cv2.resize(picture, side, interpolation=cv2.INTER_AREA)))


def kept(one: np.ndarray, other: np.ndarray) -> float:
    return float(correlations(*(vector("structure", picture)[None] for picture in (one, other)))[0])


def test_the_structure_outlives_brush_strokes_and_not_another_scene():
    drawn = scene(3, 1)
    assert kept(drawn, drawn) == pytest.approx(1)
    assert kept(drawn, strokes(drawn, 1.0, 3, 1)) > 0.9
    assert kept(drawn, drawn[:, ::-1]) < kept(drawn, strokes(drawn, 1.0, 3, 1))
    assert kept(drawn, scene(4, 2)) < kept(drawn, strokes(drawn, 1.0, 3, 1))


def test_the_palette_knows_colours_and_not_places():
    drawn = scene(3, 1)
    assert vector("palette", drawn[::-1, ::-1]) == pytest.approx(vector("palette", drawn), abs=0.02)
    assert np.square(vector("palette", drawn)).sum() == pytest.approx(1)
    assert vector("palette", drawn) @ vector("palette", 255 - drawn) < 0.5


def test_a_pictures_vectors_do_not_depend_on_its_size(tmp_path: Path):
    large = cv2.resize(scene(5, 1), (384, 384), interpolation=cv2.INTER_CUBIC)
    for name, picture in (("small", large[::2, ::2]), ("large", large)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    _, vectors = features.look_at([tmp_path / "small.png", tmp_path / "large.png"])
    for name in ("structure", "layout"):
        assert np.corrcoef(vectors[name])[0, 1] > 0.99


# ---- Learned


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> ScoreInputs:
    folder = tmp_path_factory.mktemp("learned")
    run = make_gallery(folder / "run", prompts=3)
    return collect(run, make_paintings(folder / "real", 5), make_paintings(folder / "training", 4, first=300))


@pytest.fixture(scope="module")
def real(evidence: ScoreInputs) -> Path:
    return evidence.run.parent / "real"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each extractor, with a tiny random model of its class."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": 1,
            "pad_token_id": 1, "projection_dim": 16}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)).save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28)
                ).save_pretrained(folder / "dinov2")  # fmt: skip
    (folder / "csd").mkdir()
    tower, style = csd_model()
    torch.save(checkpoint(tower, style), folder / "csd" / "pytorch_model.bin")
    return folder


def csd_model() -> tuple[CLIPVisionModel, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return CLIPVisionModel(CLIPVisionConfig(**VISION)).eval(), torch.randn(64, 8)


def checkpoint(model: CLIPVisionModel, style: torch.Tensor) -> dict:
    """As the authors' training left it: OpenAI's names, in DataParallel, with arguments and NumPy numbers beside."""
    own = {key.split("vision_model.")[-1]: tensor for key, tensor in model.state_dict().items()}
    tower = {
        "class_embedding": own["embeddings.class_embedding"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "conv1.weight": own["embeddings.patch_embedding.weight"],
    }
    for side in ("weight", "bias"):
        tower[f"ln_pre.{side}"], tower[f"ln_post.{side}"] = own[f"pre_layrnorm.{side}"], own[f"post_layernorm.{side}"]
        for layer in range(VISION["num_hidden_layers"]):  # type: ignore[call-overload]
            here, there = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            tower[f"{here}.attn.in_proj_{side}"] = torch.cat(
                [own[f"{there}.self_attn.{part}_proj.{side}"] for part in "qkv"]
            )
            tower[f"{here}.attn.out_proj.{side}"] = own[f"{there}.self_attn.out_proj.{side}"]
            for theirs, ours in {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
                                 "mlp.c_proj": "mlp.fc2"}.items():  # fmt: skip
                tower[f"{here}.{theirs}.{side}"] = own[f"{there}.{ours}.{side}"]
    state = {f"module.backbone.{key}": tensor for key, tensor in tower.items()}
    state |= {"module.last_layer_style": style, "module.last_layer_content": torch.zeros_like(style)}
    return {"model_state_dict": state, "args": argparse.Namespace(arch="vit_large"), "loss": np.float64(0.5)}


def publish(hub: Hub, weights: Path, *names: str) -> None:
    """At the commits that are pinned."""
    for name in names:
        extractor = EXTRACTORS[name]
        repo = hub.add_repo(extractor.repository, weights / name)
        repo.commits[extractor.revision] = repo.commits.pop(repo.find("main"))
        repo.refs["refs/heads/main"] = extractor.revision


def by_name(rows: list[Metric]) -> dict[str, Metric]:
    return {row.name: row for row in rows}


def test_every_extractor_runs_from_the_hub_and_fills_its_rows(
    hub: Hub, weights: Path, evidence: ScoreInputs, real: Path
):
    publish(hub, weights, *EXTRACTORS)
    rows = by_name(learned_rows(evidence, real, None, "cpu"))
    assert set(rows) == {"clip-score", "clip-kid", "clip-probe", "dinov2-kid", "dinov2-probe", "dinov2-vendi",
                         "csd-similarity", "sscd-nearest", "sscd-copies"}  # fmt: skip
    for name in ("sscd-nearest", "sscd-copies"):
        row = rows.pop(name)
        assert row.adapter is None and row.note == "Not computed: no pinned weights are known."
    for name, row in rows.items():
        assert row.base and row.adapter and row.difference, name
        assert row.adapter.low <= row.adapter.value <= row.adapter.high
    for name, extractor in EXTRACTORS.items():
        told = {row.weights for key, row in rows.items() if key.startswith(name)}
        commit = hub.repos[extractor.repository].find("main")
        assert told == {f"{extractor.repository}@{commit[:12]}, {extractor.licence}"}
    score, similarity = rows["clip-score"].adapter, rows["csd-similarity"]
    assert score and 0 <= score.value <= 100
    assert similarity.real and -1 <= similarity.real.value <= 1


def test_what_the_hub_does_not_have_is_a_row_that_says_so(hub: Hub, weights: Path, evidence: ScoreInputs, real: Path):
    publish(hub, weights, "dinov2")
    rows = by_name(learned_rows(evidence, real, None, "cpu"))
    assert rows["dinov2-kid"].adapter
    for name in ("clip-score", "csd-similarity"):
        assert rows[name].adapter is None
        assert "Not computed: weights unavailable (The Hub shows no" in rows[name].note


def test_a_checkpoint_that_runs_code_is_not_opened(
    hub: Hub, weights: Path, evidence: ScoreInputs, real: Path, tmp_path: Path
):
    (tmp_path / "csd").mkdir()
    harm = {"model_state_dict": {}, "harm": pytest.approx}
    torch.save(harm, tmp_path / "csd" / "pytorch_model.bin")
    publish(hub, tmp_path, "csd")
    [row] = [row for row in learned_rows(evidence, real, ["csd"], "cpu") if row.name == "csd-similarity"]
    assert row.adapter is None
    assert "weights unavailable" in row.note


def test_csd_is_the_tower_that_was_trained(weights: Path):
    tower, style = csd_model()
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = tower(pixels).pooler_output @ style
        assert torch.allclose(learned.csd(weights / "csd", "cpu").see(pixels), expected, atol=1e-5)


def test_clip_sees_and_reads_as_transformers_own_model_does(weights: Path):
    eye = learned.clip(weights / "clip", "cpu")
    model = CLIPModel.from_pretrained(weights / "clip").eval()
    pixels, tokens = (
        torch.randn(2, 3, 28, 28),
        clip_tokenizer()(["a boat", "two boats"], padding=True, return_tensors="pt"),
    )
    with torch.no_grad():
        whole = model(pixel_values=pixels, **tokens)
        seen, read = eye.see(pixels), eye.read(["a boat", "two boats"])  # type: ignore[misc]
    for own, theirs in ((seen, whole.image_embeds), (read, whole.text_embeds)):
        assert torch.allclose(torch.nn.functional.normalize(own, dim=-1), theirs, atol=1e-5)


def test_a_picture_is_prepared_as_the_models_were_trained():
    eye = learned.FeatureExtractor(lambda x: x, 14, learned.CLIP_NORM)
    white = learned.prepared(Image.new("RGB", (60, 30), "white"), eye)
    assert white.shape == (3, 14, 14)
    assert white[:, 0, 0].tolist() == pytest.approx(
        [(1 - m) / s for m, s in zip(*learned.CLIP_NORM, strict=True)], rel=1e-5
    )


def test_a_feature_that_there_is_not_is_refused(evidence: ScoreInputs, real: Path):
    with pytest.raises(UserError, match=r"There is no feature dino; there are clip, dinov2, csd\."):
        learned_rows(evidence, real, ["dino"], "cpu")


def test_every_extractor_says_where_its_weights_are_and_their_licence():
    for extractor in EXTRACTORS.values():
        assert extractor.licence and "/" in extractor.repository
        assert len(extractor.revision) == 40

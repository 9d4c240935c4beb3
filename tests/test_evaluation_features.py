"""From pictures to vectors: those without weights, and the learned ones for real, on tiny random models from a Hub."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from galleries import make_gallery, make_paintings, scene, strokes
from hub import Hub
from PIL import Image
from tiny import clip_tokenizer
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from evaluation import features, learned
from evaluation.evidence import ScoreInputs, collect
from evaluation.learned import EXTRACTORS, learned_rows
from evaluation.numbers import correlations
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
    _, vectors = features.measure_files([tmp_path / "small.png", tmp_path / "large.png"])
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
    return folder


def publish(hub: Hub, weights: Path, *names: str) -> None:
    """At the commits that are pinned."""
    for name in names:
        extractor = EXTRACTORS[name]
        repo = hub.add_repo(extractor.repository, weights / ("dinov2" if name == "dinov2" else "clip"))
        if extractor.revision != "main":
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
                         "pickscore-preferred"}  # fmt: skip
    for name, row in rows.items():
        assert row.base and row.adapter and row.difference, name
        assert row.adapter.low <= row.adapter.value <= row.adapter.high
    for name, extractor in EXTRACTORS.items():
        told = {row.weights for key, row in rows.items() if key.startswith(name)}
        commit = hub.repos[extractor.repository].find("main")
        assert told == {f"{extractor.repository}@{commit[:12]}, {extractor.licence}"}
    score = rows["clip-score"].adapter
    assert score and 0 <= score.value <= 100


def test_what_the_hub_does_not_have_is_a_row_that_says_so(hub: Hub, weights: Path, evidence: ScoreInputs, real: Path):
    publish(hub, weights, "dinov2")
    rows = by_name(learned_rows(evidence, real, None, "cpu"))
    assert rows["dinov2-kid"].adapter
    assert rows["clip-score"].adapter is None
    assert "Not computed: weights unavailable (The Hub shows no" in rows["clip-score"].note


def test_clip_sees_and_reads_as_transformers_own_model_does(weights: Path):
    extractor = learned.clip(weights / "clip", "cpu")
    model = CLIPModel.from_pretrained(weights / "clip").eval()
    pixels, tokens = (
        torch.randn(2, 3, 28, 28),
        clip_tokenizer()(["a boat", "two boats"], padding=True, return_tensors="pt"),
    )
    with torch.no_grad():
        whole = model(pixel_values=pixels, **tokens)
        seen, read = extractor.embed_images(pixels), extractor.embed_texts(["a boat", "two boats"])  # type: ignore[misc]
    for own, theirs in ((seen, whole.image_embeds), (read, whole.text_embeds)):
        assert torch.allclose(torch.nn.functional.normalize(own, dim=-1), theirs, atol=1e-5)


def test_a_picture_is_prepared_as_the_models_were_trained():
    extractor = learned.FeatureExtractor(lambda x: x, 14, 16, learned.CLIP_NORM)
    white = learned.prepared(Image.new("RGB", (60, 30), "white"), extractor)
    assert white.shape == (3, 14, 14)
    assert white[:, 0, 0].tolist() == pytest.approx(
        [(1 - m) / s for m, s in zip(*learned.CLIP_NORM, strict=True)], rel=1e-5
    )


def test_a_feature_that_there_is_not_is_refused(evidence: ScoreInputs, real: Path):
    with pytest.raises(UserError, match=r"There is no feature dino; there are clip, dinov2, pickscore\."):
        learned_rows(evidence, real, ["dino"], "cpu")


def test_every_extractor_says_where_its_weights_are_and_their_licence():
    for extractor in EXTRACTORS.values():
        assert extractor.licence and "/" in extractor.repository
        assert extractor.revision == "main" or len(extractor.revision) == 40

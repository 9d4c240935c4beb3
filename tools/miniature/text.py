"""The miniature's two text encoders, CLIP for the whole sentence and T5 for its words, with their tokenizers.

Both learn to read the captions of the drawn world: from their output a linear layer must tell every attribute
that the sentence mentions (and that the others are not mentioned). Afterwards they are frozen, as FLUX's are.
"""

# pyright: reportArgumentType=false, reportOptionalSubscript=false, reportOptionalMemberAccess=false
# pyright: reportReturnType=false, reportOperatorIssue=false, reportCallIssue=false
# (diffusers' and torch's layers are typed as Tensor | Module)

import json
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from tools.miniature import loop
from tools.miniature.captions import ATTRIBUTES, describe, describe_with, vocabulary
from tools.miniature.world import random_scene

TOKENS = 32
WIDTH = 128
BATCH = {"cpu": 48, "cuda": 192}


def clip_tokenizer(corpus: list[str]) -> CLIPTokenizer:
    special = ["<|startoftext|>", "<|endoftext|>"]
    bare = CLIPTokenizer(vocab={token: i for i, token in enumerate(special)}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(unk_token=special[1], end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = bare.normalizer, bare.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=1600, special_tokens=special, initial_alphabet=alphabet, end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )  # fmt: skip
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS)


def t5_tokenizer(words: list[str]) -> T5Tokenizer:
    """Whole words, plain and capitalised (T5 keeps case), and single characters for all others."""
    special = ["<pad>", "</s>", "<unk>"]
    whole = sorted({f"▁{form}" for word in words for form in (word, word.capitalize())})
    single = sorted(set("▁" + string.ascii_letters + string.digits + string.punctuation) - set(whole))
    vocabulary = [(s, 0.0) for s in special] + [(w, -5.0) for w in whole] + [(c, -10.0) for c in single]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=TOKENS)


def kept_tokenizers(folder: Path) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Both, learned once for a build: learned again, some tokens would change their numbers."""
    if not (folder / "t5").exists():
        clip, t5 = tokenizers()
        clip.save_pretrained(folder / "clip")
        t5.save_pretrained(folder / "t5")
    return CLIPTokenizer.from_pretrained(folder / "clip"), T5Tokenizer.from_pretrained(folder / "t5")


def tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Both tokenizers, learned from 4,000 captions in every phrasing."""
    rng = np.random.default_rng(3)
    corpus = [describe(random_scene(rng), rng, held_out=i % 2 == 0) for i in range(4000)]
    return clip_tokenizer(corpus), t5_tokenizer(sorted(vocabulary()))


class Reader(torch.nn.Module):
    """Both encoders with a linear layer an attribute on top of each."""

    def __init__(self, clip_vocabulary: int, t5_vocabulary: int) -> None:
        super().__init__()
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=clip_vocabulary, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=TOKENS, projection_dim=WIDTH,
                bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        )  # fmt: skip
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=t5_vocabulary, d_model=WIDTH, d_kv=32, d_ff=2 * WIDTH, num_layers=2, num_heads=4,
                feed_forward_proj="gated-gelu", dropout_rate=0.0,
            )
        )  # fmt: skip
        choices = {name: len(values) + 1 for name, values in ATTRIBUTES.items()}  # 0: not mentioned
        self.heads = torch.nn.ModuleDict(
            {
                f"{encoder}_{name}": torch.nn.Linear(WIDTH, count)
                for encoder in ("clip", "t5")
                for name, count in choices.items()
            }
        )

    def forward(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        summary = {
            "clip": self.clip(clip_ids).pooler_output,  # (batch, width)
            "t5": self.t5(t5_ids)[0].mean(1),  # (batch, tokens, width) → (batch, width)
        }
        return {name: head(summary[name.split("_")[0]]) for name, head in self.heads.items()}


def ids(tokenizer: CLIPTokenizer | T5Tokenizer, sentences: list[str]) -> torch.Tensor:
    """(batch, TOKENS) token ids, padded as FluxPipeline pads them."""
    return tokenizer(sentences, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids


def both_ids(clip: CLIPTokenizer, t5: T5Tokenizer, sentences: list[str]) -> loop.Batch:
    """As a Reader takes them, and a Frozen."""
    return {"clip_ids": ids(clip, sentences), "t5_ids": ids(t5, sentences)}


def as_typed(sentence: str, rng: np.random.Generator) -> str:
    """People write a capital and a full stop, or do not."""
    sentence = sentence.capitalize() if rng.random() < 0.4 else sentence
    return sentence + "." if rng.random() < 0.3 else sentence


def labelled(step: int, count: int, held_out: bool = False) -> tuple[list[str], dict[str, torch.Tensor]]:
    """So many captions and, for every attribute, which value each mentions (0: none)."""
    rng = np.random.default_rng([11, step])
    pairs = [describe_with(random_scene(rng), rng, held_out=held_out) for _ in range(count)]
    labels = {
        name: torch.tensor([values.index(said[name]) + 1 if name in said else 0 for _, said in pairs])
        for name, values in ATTRIBUTES.items()
    }
    return [as_typed(sentence, rng) for sentence, _ in pairs], labels


def train(state_file: Path, steps: int) -> "Frozen":
    """Both encoders, trained, with their tokenizers; prints how well they read phrasings that they never saw."""
    torch.manual_seed(2)
    clip, t5 = kept_tokenizers(state_file.with_name("tokenizers"))
    reader = Reader(len(clip), len(t5)).to(loop.device())

    size = BATCH[loop.device().type]

    def batch_of(step: int) -> loop.Batch:
        sentences, labels = labelled(step, size)
        return both_ids(clip, t5, sentences) | labels

    def loss_of(batch: loop.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        answers = reader(batch["clip_ids"], batch["t5_ids"])
        loss = sum(F.cross_entropy(answer, batch[name.split("_")[1]]) for name, answer in answers.items())
        return loss, {"loss": loss.detach()}

    loop.run(model=reader, state_file=state_file, steps=steps, rate=1e-3, batch_of=batch_of, loss_of=loss_of)
    print("read in held-out phrasings:", {name: f"{share:.0%}" for name, share in accuracy(reader, clip, t5).items()})
    return Frozen(reader.clip, reader.t5, clip, t5)


@torch.no_grad()
def accuracy(reader: Reader, clip: CLIPTokenizer, t5: T5Tokenizer) -> dict[str, float]:
    """Share of held-out phrasings whose attributes are read correctly, for each encoder and attribute."""
    sentences, labels = labelled(10**6, 192, held_out=True)
    answers = reader(**{name: value.to(loop.device()) for name, value in both_ids(clip, t5, sentences).items()})
    return {n: float((a.argmax(-1).cpu() == labels[n.split("_")[1]]).float().mean()) for n, a in answers.items()}


@dataclass(frozen=True)
class Frozen:
    """The trained encoders with their tokenizers, no longer trained."""

    clip: CLIPTextModel
    t5: T5EncoderModel
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer

    def __post_init__(self) -> None:
        for encoder in (self.clip, self.t5):
            encoder.eval().requires_grad_(False).to(loop.device())

    def ids(self, prompts: list[str]) -> loop.Batch:
        return both_ids(self.clip_tokenizer, self.t5_tokenizer, prompts)

    @torch.no_grad()
    def __call__(self, clip_ids: torch.Tensor, t5_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, TOKENS, WIDTH) for the words, (batch, WIDTH) for the sentence."""
        return self.t5(t5_ids)[0], self.clip(clip_ids).pooler_output

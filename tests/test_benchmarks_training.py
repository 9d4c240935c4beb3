"""The benchmark beside diffusers' trainer compares equals, measures what it says, and tells what falls short."""

import dataclasses
import sys

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from transformers import AutoTokenizer, CLIPTextModel

from benchmarks import training as benchmark
from impressionism import names
from training.adapter import linears, rank_of
from training.recipe import read

TRAINER = """
import sys, time
from tqdm import tqdm
block = bytearray(b"1") * 200_000_000
print("Loading: 100%|####| 7/7 [00:00<00:00]", file=sys.stderr)
for _ in tqdm(range(4), desc="Steps"):
    time.sleep(0.2)
"""


def test_a_figure_that_falls_short_is_called_so():
    raw = {"training_peak": 2e9, "peak": 2e9}
    theirs = {"seconds_per_sample": 1.0, "training_memory": 1e9, "memory": 1e9, "held_out_loss": 0.5} | raw
    ahead = {"seconds_per_sample": 0.7, "training_memory": 6e8, "memory": 6e8, "held_out_loss": 0.4} | raw
    for ours, faster, short in ((ahead, (1.4, 1.35, 1.5), 0), (theirs, (1.0, 0.9, 1.1), 5)):
        medians = {"ours": ours, "theirs": theirs, "theirs_uncached": theirs,
                   "ours_compiled": ours | {"seconds_per_sample": 0.6}}  # fmt: skip
        part = {"medians": medians, "base_held_out": 0.6, "faster": faster, "faster_compiled": faster,
                "settings": {"batch": 4}, "products": {"operations": 1e9, "rate": 1e9},
                "runs": {"ours_compiled": [{"first": 20.0}, {"first": 50.0}]}}  # fmt: skip
        text = benchmark.table({"models": {"miniature": part}})
        assert text.count("not reached") == short
        assert "(compiling takes up to 50 s) | 0.600 s | 1.000 s |" in text
        assert f"matrix multiplication | {0.25 / ours['seconds_per_sample']:.0%} | 25% |" in text


def test_the_middle_of_the_runs_counts_beyond_what_an_idle_process_takes():
    runs = [
        {"seconds_per_sample": s, "seconds": s, "training_peak": 10, "peak": p} for s, p in ((1, 30), (9, 20), (2, 90))
    ]
    losses = {"ours": [0.3, 0.1, 0.2], "ours_compiled": [], "theirs_uncached": []}
    part = {"runs": dict.fromkeys(losses, runs), "held_out": losses}
    found = benchmark.medians(part, {"ours": 5, "theirs": 7})
    middle = {"seconds_per_sample": 2, "seconds": 2, "training_peak": 10, "peak": 30}
    assert found["ours"] == middle | {"training_memory": 5, "memory": 25, "held_out_loss": 0.2}
    assert found["ours_compiled"] == middle | {"training_memory": 5, "memory": 25}
    assert found["theirs_uncached"] == middle | {"training_memory": 3, "memory": 23}


def test_a_ratio_is_of_runs_that_belong_together():
    runs = {side: [{"seconds_per_sample": s} for s in seconds] for side, seconds in
            {"ours": (1, 10, 2), "theirs": (1.5, 15, 3), "ours_compiled": (0.5, 5, 1)}.items()}  # fmt: skip
    assert benchmark.faster(runs) == (1.5, 1.5, 1.5)
    assert benchmark.faster(runs, "ours_compiled") == (3, 3, 3)


def test_compiling_is_no_part_of_a_samples_seconds():
    plain = benchmark.Measured(seconds_per_sample=2, seconds=30, first=3, training_peak=1, peak=1)
    compiled = dataclasses.replace(plain, seconds_per_sample=5, first=43)
    assert benchmark.warm(compiled, plain, samples=10) == dataclasses.replace(compiled, seconds_per_sample=1)


def test_a_trainer_is_timed_by_its_bar_and_weighed():
    seen = benchmark.watch([sys.executable, "-c", TRAINER], "Steps", batch=2)
    assert 0.1 <= seen.seconds_per_sample < seen.seconds / 8
    assert 0.2 <= seen.first < seen.seconds
    assert 200_000_000 < seen.training_peak <= seen.peak


def test_another_bar_is_not_taken_for_the_trainers():
    assert benchmark.progress("Steps:  25%|██▌       | 1/4 [00:00<00:00,  4.97it/s]", "Steps") == (1, 4)
    assert benchmark.progress("Loading: 100%|##########| 7/7 [00:00<00:00]", "Steps") is None


def test_both_trainers_change_the_same_layers(tmp_path):
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**benchmark.medium())
    benchmark.ours(benchmark.Settings(), names.MINIATURE, tmp_path, tmp_path / "run")
    wanted = read(tmp_path / "run.yaml", []).adapter
    ours = {name for name in linears(transformer) if rank_of(name, wanted, 6)}
    transformer.add_adapter(LoraConfig(r=16, target_modules=list(benchmark.LAYERS)))
    theirs = {name.removesuffix(".lora_A") for name, _ in transformer.named_modules() if name.endswith(".lora_A")}
    assert ours == theirs


def test_more_positions_leave_the_captions_as_they_were(tmp_path):
    model = benchmark.write_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model / "tokenizer")
    pooled = []
    for folder, length in ((names.MINIATURE, benchmark.TOKENS), (model, benchmark.CLIP_TOKENS)):
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        tokens = tokenizer("a boat at dawn", padding="max_length", max_length=length, return_tensors="pt")
        pooled.append(encoder(tokens.input_ids).pooler_output)
    torch.testing.assert_close(*pooled)

"""The faults of real cards, built again, and those of a file: each is told in a sentence."""

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import make_tiny_adapter

from impressionism.lora_file import linears_of, open_file, read_adapter, write_adapter
from impressionism.names import WEIGHTS_FILE
from impressionism.records import Run
from model_card import __main__ as model_card
from model_card import check, weights
from model_card.presets import FLUX

# A card with nothing wrong, written by hand as anyone might.
GOOD = """---
license: other
license_name: flux-1-dev-non-commercial-license
license_link: LICENSE.md
base_model: black-forest-labs/FLUX.1-dev
base_model_relation: adapter
library_name: diffusers
pipeline_tag: text-to-image
instance_prompt: an impressionist painting of
datasets:
- monet/ponds
tags:
- lora
- flux
widget:
- text: an impressionist painting of a pond
  output:
    url: images/pond.png
model-index:
- name: ponds
  results:
  - task:
      type: text-to-image
    dataset:
      type: monet/prompts
      name: prompts
    metrics:
    - type: index
      value: 0.61
---
# Ponds

<Gallery />

Begin with **an impressionist painting of**; strength 0.8, seed 7. Trained for 2,000 steps. CO2 was not measured.

```python
import torch
from diffusers import FluxPipeline

pipe = FluxPipeline.from_pretrained("black-forest-labs/FLUX.1-dev", torch_dtype=torch.bfloat16)
pipe.load_lora_weights("monet/ponds")
pipe("a pond", num_inference_steps=2, width=64, height=64, max_sequence_length=32).images[0].save("pond.png")
```

![a pond](images/pond.png)

## Limits

Hands.

## Licence

[FLUX.1 dev](LICENSE.md)
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_flux: Path) -> Path:
    """An adapter's folder with that card."""
    folder = make_tiny_adapter(tmp_path / "adapter")
    updates = read_adapter(folder / WEIGHTS_FILE, linears_of(tiny_flux))
    write_adapter(updates, folder / WEIGHTS_FILE, torch.bfloat16, title="ponds")
    write_adapter(updates, folder / "ponds_comfy.safetensors", torch.bfloat16, layout="comfy", title="ponds")
    (folder / "images").mkdir()
    Image.new("RGB", (8, 8), "teal").save(folder / "images" / "pond.png")
    shutil.copyfile(FLUX.license_file, folder / "LICENSE.md")
    (folder / "NOTICE").write_text(f"{FLUX.attribution}\n\nThe model was modified.\n")
    (folder / "README.md").write_text(GOOD)
    return folder


def of_card(folder: Path) -> list[str]:
    """The faults of the card alone; the weights have tests of their own below."""
    card = check.read(folder)
    return [fault for rule in check.RULES for fault in rule(card)]


def faults_of(folder: Path, card: str) -> str:
    (folder / "README.md").write_text(card)
    return "\n".join(of_card(folder))


def test_a_good_card_passes(folder: Path, tiny_flux: Path, capsys) -> None:
    assert model_card.main(["check", str(folder), "--base", str(tiny_flux)]) == 0
    assert "nothing is wrong" in capsys.readouterr().err


def test_every_fault_is_told_and_the_command_fails(folder: Path, capsys) -> None:
    (folder / "README.md").write_text(GOOD.replace("## Limits", "## More").replace("<Gallery />", ""))
    (folder / "NOTICE").unlink()
    (folder / WEIGHTS_FILE).unlink()
    assert model_card.main(["check", str(folder)]) == 1
    said = capsys.readouterr().err
    for part in ("No heading mentions limits", "<Gallery /> should appear once", "Attribution Notice", "adapter"):
        assert part in said
    assert re.search(r"\d+ faults\.$", said.strip())


# ---- Cards as they are met on the Hub

SEED = """---
base_model: black-forest-labs/FLUX.1-dev
pipeline_tag: text-to-image
widget:
- text: Waterlilies
  output:
    url: images/lilies.png
---
# Impressionism

Fine-tuned for 1,000 training steps. Hyper-parameters: max_train_steps: 1250; the best checkpoint came after 2000
training steps. Data: https://huggingface.co/datasets/monet/curated

```python
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained("black-forest-labs/FLUX.1-dev")
pipe.unet.load_attn_procs("monet/lora")
```
"""
WRONG_LICENCE = GOOD.replace(
    "license: other\nlicense_name: flux-1-dev-non-commercial-license\nlicense_link: LICENSE.md",
    "license: creativeml-openrail-m",
)
BY_DIFFUSERS = """---
base_model: black-forest-labs/FLUX.1-dev
library_name: diffusers
license: other
instance_prompt: a photo of sks dog
widget: []
tags: [text-to-image, diffusers-training, diffusers, lora, flux, flux-diffusers, template:sd-lora, lora]
---
# Flux DreamBooth LoRA

#### Limitations and bias

[TODO: provide examples of latent issues and potential remediations]
"""
BY_AI_TOOLKIT = GOOD.replace("pipeline_tag: text-to-image\n", "").replace(
    "widget:\n- text: an impressionist painting of a pond\n  output:\n    url: images/pond.png\n", "widget:\n"
)
IN_FLOAT16 = re.sub(r"strength 0\.8, seed 7\.", "", GOOD).replace("bfloat16", "float16")


@pytest.mark.parametrize(
    ("card", "sentences"),
    [
        pytest.param(SEED, [
            "license is missing", "not None / None", "instance_prompt is missing", "base_model_relation",
            "several numbers of training steps (1000, 1250, 2000)",
            "StableDiffusionPipeline, which is not a FLUX pipeline",
            "uses a unet", "never loads the adapter", "<Gallery /> should appear once",
            "images/lilies.png is not here", "links the dataset monet/curated", "No seed is given", "are no results",
            "co2_eq_emissions is missing", "No heading mentions limits", "tags should include lora",
        ], id="the seed's"),
        pytest.param(WRONG_LICENCE, ["under its licence, not creativeml-openrail-m"], id="a Stable Diffusion licence"),
        pytest.param(BY_DIFFUSERS, [
            "A placeholder was left: TODO", "license: other needs license_name", "license: other needs license_link",
            '"widget" must be an array', "pipeline_tag should be text-to-image", "A tag is listed twice",
            "No Python block shows how to load it",
        ], id="diffusers' trainer's"),
        pytest.param(BY_AI_TOOLKIT, ['"widget" must be an array', "pipeline_tag should be"], id="ai-toolkit's"),
        pytest.param(IN_FLOAT16, ["FLUX overflows", "No seed is given", "No strength is recommended"], id="in float16"),
    ],
)  # fmt: skip
def test_the_faults_of_real_cards_are_found(folder: Path, card: str, sentences: list[str]) -> None:
    said = faults_of(folder, card)
    for sentence in sentences:
        assert sentence in said


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("base_model: black-forest-labs/FLUX.1-dev\n", "", "base_model is missing"),
        ("base_model: black-forest-labs/FLUX.1-dev", "base_model:\n- black-forest-labs/FLUX.1-dev", "one Hub id, not"),
        ("datasets:\n- monet/ponds", "datasets:\n-", "datasets should hold Hub ids and nothing empty"),
        ("text: an impressionist painting of a pond", "text: a pond", "lacks the trigger 'an impressionist"),
        ("    url: images/pond.png", "    url: images/none.png", "images/none.png is not here"),
        ("    url: images/pond.png", "    url: ../outside.png", "../outside.png is not here"),
        ("![a pond]", "![]", "has no alternative text"),
        ("      value: 0.61", "      value: good", "has no number"),
        ("    - type: index\n", "    - name: index\n", "model-index cannot be read"),
        ("Trained for 2,000 steps.", "<your description>", "A placeholder was left"),
        ('"monet/ponds")', '"monet/ponds", weight_name="ponds.safetensors")', "loads ponds.safetensors, which is not"),
        ("FluxPipeline\n", "FluxLilyPipeline\n", "imports FluxLilyPipeline, which diffusers does not have"),
        ('pipe("a pond"', 'pipe("a pond', "is not valid Python"),
        ("license_link: LICENSE.md", "license_link: LICENCE.txt", "license_link names LICENCE.txt"),
        ("  - task:\n      type: text-to-image\n", "  - task:\n      name: painting\n", "model-index cannot be read"),
    ],
)  # fmt: skip
def test_each_fault_of_a_card_is_one_sentence(folder: Path, old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    assert sentence in faults_of(folder, GOOD.replace(old, new))


def test_no_card_and_no_front_matter_are_told(folder: Path) -> None:
    (folder / "README.md").write_text("# Ponds\n")
    assert "no front matter" in check.faults(folder)[0]
    (folder / "README.md").write_text("---\n- a list\n---\n")
    assert "keys with values" in check.faults(folder)[0]
    (folder / "README.md").unlink()
    assert "There is no README.md" in check.faults(folder)[0]
    (folder / "images").mkdir(exist_ok=True)
    assert "neither a README.md nor an adapter" in check.faults(folder / "images")[0]


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("LICENSE.md", "MIT", "LICENSE.md should hold the FLUX.1 [dev] licence"),
        ("NOTICE", FLUX.attribution, "NOTICE should say that the model was modified"),
        ("NOTICE", "The model was modified by me, thanks to Black Forest Labs.", "Attribution Notice verbatim"),
        ("images/pond.png", "no picture", "images/pond.png cannot be read"),
        ("images/pond.png", "x" * 2_000_001, "images/pond.png is 2.0 MB"),
    ],
)
def test_each_fault_of_a_file_beside_it_is_told(folder: Path, file: str, content: str, sentence: str) -> None:
    (folder / file).write_text(content)
    assert sentence in "\n".join(of_card(folder))


def test_a_number_of_steps_that_the_run_did_not_take_is_told(folder: Path) -> None:
    run = Run(name="ponds", base="flux", base_revision=None, dataset="ponds", dataset_revision=None, steps=1500,
              seconds=1.0, peak_memory=1, trained_parameters=1, validation_loss=None, base_validation_loss=None,
              versions={})  # fmt: skip
    (folder.parent / "run.json").write_text(run.to_json())
    assert "It says 2000 training steps; run.json says 1500." in of_card(folder)


# ---- Hostile front matter


@pytest.mark.parametrize(
    "hostile",
    [
        "a: &a [x, x]\n"
        + "\n".join(
            f"{name}: &{name} [*{before}, *{before}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "9" * 100_000,
        "a: !!python/object/apply:os.system [ls]",
        "? [a, b]\n: c\n? {d: e}\n: f",
    ],
    ids=["aliases", "5,000 lists", "a huge integer", "a Python tag", "keys that cannot be hashed"],
)
def test_hostile_front_matter_ends_in_one_sentence(folder: Path, hostile: str) -> None:
    (folder / "README.md").write_text(f"---\n{hostile}\n---\n# Ponds\n")
    [fault] = check.faults(folder)
    assert fault.startswith("The front matter") and len(fault) < 400


# ---- Its weights


def remade(folder: Path, change) -> None:
    """The file again, with its tensors and its metadata changed by `change`."""
    file = folder / WEIGHTS_FILE
    tensors, metadata = open_file(file)
    change(tensors, metadata)
    metadata.pop("modelspec.hash_sha256", None)
    save_file(tensors, file, metadata)


def config(metadata: dict[str, str], **changes) -> None:
    told = json.loads(metadata["lora_adapter_metadata"])
    metadata["lora_adapter_metadata"] = json.dumps(told | {f"transformer.{key}": it for key, it in changes.items()})


def alpha_of_eight(tensors, metadata) -> None:
    config(metadata, lora_alpha=8)


def rank_stabilised(tensors, metadata) -> None:
    config(metadata, use_rslora=True)


def another_rank(tensors, metadata) -> None:
    config(metadata, r=16, lora_alpha=16)


def alpha_twice(tensors, metadata) -> None:
    key = next(key for key in tensors if "lora_A" in key)
    tensors[key.replace("lora_A.weight", "alpha")] = torch.tensor(4.0)


def no_alpha(tensors, metadata) -> None:
    del metadata["lora_adapter_metadata"]


def no_title(tensors, metadata) -> None:
    del metadata["modelspec.title"]


def trained_further(tensors, metadata) -> None:
    for key in tensors:
        tensors[key] *= 1.5


def diverged(tensors, metadata) -> None:
    tensors[next(iter(tensors))][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (alpha_of_eight, "alpha 8 at rank 4 is in diffusers' metadata only"),
        (rank_stabilised, "fold it into the weights"),
        (another_rank, "its metadata says rank 16, its tensors have [4]"),
        (alpha_twice, "says alpha twice"),
        (no_alpha, "says no alpha"),
        (no_title, "lacks the ModelSpec's title"),
        (trained_further, "are different adapters"),
        (diverged, "not finite"),
    ],
)
def test_a_strength_that_tools_would_read_differently_is_told(folder: Path, tiny_flux: Path, change, sentence) -> None:
    assert weights.faults(folder, tiny_flux) == []
    remade(folder, change)
    assert sentence in "\n".join(weights.faults(folder, tiny_flux))


def test_files_that_do_not_load_are_told(folder: Path, tiny_flux: Path) -> None:
    file = folder / WEIGHTS_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert "is cut off" in "\n".join(weights.faults(folder, tiny_flux))
    file.write_bytes(b"")
    assert "is empty" in "\n".join(weights.faults(folder, tiny_flux))
    file.write_bytes(whole)
    (folder / "adapter.ckpt").write_bytes(b"\x80")
    assert "adapter.ckpt is a pickle" in "\n".join(weights.faults(folder, tiny_flux))
    assert "was trained for another model" in "\n".join(
        weights.faults(folder, None)
    )  # FLUX.1 [dev]'s layers are larger


def test_a_hash_of_other_tensors_is_told(folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert "is of other tensors than it holds" in "\n".join(weights.header_faults(file))


def test_a_header_longer_than_the_file_is_no_reason_to_read_on(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert weights.header_faults(tmp_path / "a.safetensors") == []  # reading its tensors says why


def test_denoising_steps_are_not_taken_for_training_steps():
    assert not check.STEPS.search("flux(prompt, num_inference_steps=20,\n    guidance_scale=3.5)")
    assert check.STEPS.search("max_train_steps=1250,")

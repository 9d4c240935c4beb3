"""What differs between a card for FLUX.1-dev and one for the bundled miniature: licence, tags and a few phrases."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from impressionism import names
from impressionism.errors import UserError

HERE = Path(__file__).parent
FLUX_LICENSE = HERE / "licences" / "flux-1-dev.md"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What the card has to know about a base model."""

    base: str
    """Hub id, or the bundled folder relative to the project's root."""
    on_hub: bool
    title: str
    """Its name in a sentence."""
    license: dict[str, str]
    """The licence keys of the front matter."""
    license_file: Path
    attribution: str
    """The notice that the licence requires, verbatim."""
    uses_trigger: bool
    """Whether the captions begin with the recipe's trigger phrase."""
    tags: tuple[str, ...]
    dtype: str
    tokens: int
    """T5's maximum sequence length when painting."""
    styled: str
    """When the base model is the fair rival: by which prompt."""
    real: str
    """What the pictures are measured against."""
    bias: str


def attribution_of(licence: Path) -> str:
    """The attribution notice quoted in section 3b of FLUX.1 [dev]'s licence, taken from its text."""
    quoted = re.search(
        r"“(The FLUX\.1 \[dev\] Model is licensed by .+?THIS MODEL\.)”", licence.read_text(encoding="utf-8"), re.DOTALL
    )
    assert quoted, f"{licence.name} quotes no attribution notice"
    return "\n".join(line.strip() for line in quoted[1].splitlines())


FLUX = Preset(
    base=names.BASE,
    on_hub=True,
    title="FLUX.1 [dev]",
    license={
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "LICENSE.md",
    },
    license_file=FLUX_LICENSE,
    attribution=attribution_of(FLUX_LICENSE),
    uses_trigger=True,
    tags=("text-to-image", "lora", "diffusers", "flux", "template:sd-lora", "impressionism"),
    dtype="bfloat16",
    tokens=512,
    styled="when the prompt asks for the style",
    real="real paintings",
    bias="The paintings are mostly French and from the nineteenth century, and so are their people, dress, streets and "
    "fields. Name other people and places explicitly, and expect them to drift towards that world at high strength.",
)
MINIATURE = Preset(
    base="impressionism/miniature",
    on_hub=False,
    title="the bundled miniature FLUX",
    license={"license": "mit"},
    license_file=HERE.parent / "LICENSE",
    attribution="The miniature and this adapter were trained from scratch on pictures that the program draws itself. "
    "They contain no weights of FLUX.1 [dev].",
    uses_trigger=False,
    tags=("text-to-image", "lora", "diffusers", "flux", "impressionism", "miniature"),
    dtype="float32",
    tokens=json.loads((names.MINIATURE / "tokenizer_2" / "tokenizer_config.json").read_text())["model_max_length"],
    styled="when the prompt is worded another way (it knows no words for styles)",
    real="painted scenes",
    bias="It knows a small list of subjects under six kinds of light, all drawn by a program, and nothing else.",
)


def preset_for(base: str) -> Preset:
    """The preset for the base model that the run's record names."""
    if base.startswith("miniature"):
        return MINIATURE
    if base.split("/")[-1] == names.BASE.split("/")[-1]:
        return FLUX
    raise UserError(
        f"The run was trained on {base}, and its licence is not known here: say --base {names.BASE} if it is a copy "
        "of that model, or --base miniature."
    )

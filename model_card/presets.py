"""What differs between an adapter of FLUX.1-dev and one of the bundled miniature: licence, tags, and what to say."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from impressionism import names
from impressionism.errors import UserError

HERE = Path(__file__).parent
QUOTED = re.compile(r"“(The FLUX\.1 \[dev\] Model is licensed by .+?THIS MODEL\.)”", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A base model, as far as a card has to know it."""

    base: str
    """Hub id, or the bundled folder as seen from the project's root."""
    on_hub: bool
    called: str
    """In a sentence."""
    license: dict[str, str]
    """Of the front matter: the licence trio, or the one name of a licence that the Hub knows."""
    license_file: Path
    attribution: str
    """What the licence asks to be told, in its own words."""
    uses_trigger: bool
    """Whether the captions began with the recipe's trigger."""
    tags: tuple[str, ...]
    dtype: str
    tokens: int
    """Of T5, as the painter gives it."""
    styled: str
    """The style-worded prompt, in a sentence."""
    real: str
    """What its pictures are measured against."""
    bias: str
    """Whose world the pictures show."""


def attribution_of(licence: Path) -> str:
    """The notice that FLUX.1 [dev]'s licence quotes in its section 3b, so that it is verbatim by construction."""
    text = licence.read_text(encoding="utf-8")
    found = QUOTED.search(text)
    assert found, f"{licence.name} quotes no attribution notice"
    return "\n".join(line.strip() for line in found[1].splitlines())


FLUX_LICENSE = HERE / "licences" / "flux-1-dev.md"
FLUX = Preset(
    base=names.BASE,
    on_hub=True,
    called="FLUX.1 [dev]",
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
    styled="the style asked for in words",
    real="real paintings",
    bias="The paintings are mostly French and of the nineteenth century: their people, dress, streets and fields. "
    "Ask for other people and places by name, and expect them to drift towards that world as the strength grows.",
)
MINIATURE = Preset(
    base="impressionism/miniature",
    on_hub=False,
    called="the bundled miniature FLUX",
    license={"license": "mit"},
    license_file=HERE.parent / "LICENSE",
    attribution="The miniature and this adapter were trained from nothing, on pictures that the program draws itself. "
    "No weights of FLUX.1 [dev] are in them.",
    uses_trigger=False,
    tags=("text-to-image", "lora", "diffusers", "flux", "impressionism", "miniature"),
    dtype="float32",
    tokens=json.loads((names.MINIATURE / "tokenizer_2" / "tokenizer_config.json").read_text())["model_max_length"],
    styled="the prompt worded another way, as it knows no words of style",
    real="painted scenes",
    bias="It knows sixteen subjects under six lights, all drawn by a program. Other words lead it astray.",
)


def preset_for(base: str) -> Preset:
    """By what the run's record calls its base."""
    if base.startswith("miniature"):
        return MINIATURE
    if base.split("/")[-1] == names.BASE.split("/")[-1]:
        return FLUX
    raise UserError(
        f"The run was trained on {base}, whose licence is not known here: say --base {names.BASE} if it is a copy of "
        "that, or --base miniature."
    )

"""The content filter that FLUX.1 [dev]'s licence asks for: of prompts, before a GPU is asked for, and of pictures.

It is on where FLUX paints and off for the miniature, which knows only harmless scenes. IMPRESSIONISM_FILTER names
another classifier, as owner/name@commit, or says off, for a page whose owner looks at the pictures himself.

Of 64 harmless prompts, classical nudes among them, it refuses two, both of nude children (a test counts them). How
often the classifier errs on pictures is not measured, for want of its weights.
"""

import logging
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

from PIL import Image

from impressionism.errors import UserError
from impressionism.hub import folder_of, without_bars

logger = logging.getLogger(__name__)
CLASSIFIER = "Falconsai/nsfw_image_detection@04367978d3474804ab1a00a9bd6548b741764069"
FILES = ["config.json", "preprocessor_config.json", "model.safetensors"]
UNSAFE = {"nsfw", "unsafe", "porn", "hentai", "sexy", "explicit"}  # what classifiers call what is withheld
THRESHOLD = 0.85  # as in Black Forest Labs' own demo for FLUX.1; paintings of nudes often score above 0.5

# ---- Prompts: words that have no other meaning in a picture's description. A rape field, a cock in the yard, light
# that penetrates the mist and nudes in the manner of the masters can be painted.

EXPLICIT = re.compile(
    r"\b(porn\w*|hentai|nsfw|xxx+|blow ?jobs?|hand ?jobs?|cum ?shots?|cumming|masturbat\w*|fellat\w*|cunniling\w*|"
    r"gang ?bang\w*|bukkake|creampies?|dildos?|orgasm\w*|fuck\w*|penis(es)?|vaginas?|vulvas?|pussies|"
    r"pussy(?! ?(cat|willow))|genitals?|genitalia|anal sex|oral sex|sex acts?|sex scenes?|(having|have|has) sex|"
    r"sexual (intercourse|acts?|abuse)|sexually explicit|spread(ing)? (her|his|their) legs|raped|raping|bestiality|"
    r"zoophil\w*|incest\w*|lolicon?s?|shotacons?|up ?skirts?|deep ?nudes?|nudif(y|ied)|undress (her|him|them)|"
    r"(remove|without) (her|his|their) clothes)\b"
)
CHILD = re.compile(
    r"\b(child(ren)?|childlike|kids?|toddlers?|infants?|bab(y|ies)|minors?|under ?aged?|pre ?teens?|"
    r"teen(s|agers?|aged?)?|school ?(girl|boy)s?|girls?|boys?|lolitas?|([1-9]|1[0-7]) ?(years? old|yo|y o))\b"
)
BARE = re.compile(
    r"\b(nudes?|nudity|naked(ness)?|undress(ed|ing)?|topless|bottomless|unclothed|lingerie|stripp(ed|ing)|seductive(ly)?|"
    r"erotic\w*|sexy|sexual\w*|sensual\w*|no clothes|bare breasts?)\b"
)
LOOKALIKES = str.maketrans("013457@$", "oieastas")


def plain(prompt: str) -> str:
    """Lower case, one space between words, without accents, invisible characters and s p a c e d letters."""
    letters = unicodedata.normalize("NFKD", prompt).casefold()
    letters = "".join(c for c in letters if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    words = re.sub(r"[^\w@$!]+|_", " ", letters)
    return re.sub(r"\b(?:\w ){3,}\w\b", lambda spaced: spaced[0].replace(" ", ""), words)


def objection(prompt: str) -> str | None:
    """Why the prompt is refused, or none."""
    read = plain(prompt)
    letters = re.sub(r"!(?=\w)", "i", read)
    readings = {read, re.sub(r"\S*[a-z]\S*", lambda word: word[0].translate(LOOKALIKES), letters)}
    if all(any(words.search(read) for read in readings) for words in (CHILD, BARE)):
        return "nudity together with children"
    if any(EXPLICIT.search(read) for read in readings):
        return "explicit sexual content"
    return None


# ---- Pictures


class ImageFilter:
    """An image classifier from the Hub, pinned, on the CPU: it costs no GPU's time."""

    @without_bars()
    def __init__(self, source: str = CLASSIFIER, threshold: float = THRESHOLD) -> None:
        """source: owner/name@commit, or a folder. Raises UserError if its files cannot be had or do not fit."""
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        name, _, revision = source.partition("@")
        if not Path(name).is_dir() and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise UserError(f"The image filter {source} is not pinned; name it as owner/name@commit, 40 hex digits.")
        folder = folder_of(name, revision or None, FILES, "name another filter in IMPRESSIONISM_FILTER")
        try:
            self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{name} is no image classifier that transformers can load.") from error
        self.name, self.threshold = name, threshold
        self.unsafe = [int(i) for i, label in self.model.config.id2label.items() if label.casefold() in UNSAFE]
        if not self.unsafe:
            labels = ", ".join(self.model.config.id2label.values())
            raise UserError(f"{name} does not say which pictures are unsafe; its labels are {labels}.")

    def score(self, image: Image.Image) -> float:
        """How sure it is that the picture is unsafe, 0 to 1."""
        import torch

        with torch.inference_mode():
            answer = self.model(**self.processor(images=image.convert("RGB"), return_tensors="pt")).logits
        return float(answer.softmax(-1)[0, self.unsafe].sum())


# ---- Both


class Guard:
    """What may be asked for and what may be shown. Each check raises UserError with a sentence for the visitor."""

    def __init__(self, *, prompts: bool = False, images: ImageFilter | None = None, lacking: str = "") -> None:
        self.prompts, self.images, self.lacking = prompts, images, lacking

    def check_prompt(self, prompt: Any) -> None:
        if self.prompts and isinstance(prompt, str) and (why := objection(prompt)):
            raise UserError(
                f"This prompt reads as if it asked for {why}, which is not painted here. If that is a "
                "misunderstanding, describe the picture in other words."
            )

    def check_picture(self, image: Image.Image, what: str = "The picture was painted, but it") -> None:
        if self.images and self.images.score(image) > self.images.threshold:
            raise UserError(
                f"{what} is withheld because the content filter flagged it as explicit. The filter sometimes misjudges "
                "painted nudes; another seed or other words may help."
            )

    def about(self) -> str:
        """One sentence for the page: which filters are on."""
        if self.images:
            return f"A content filter reads the prompts, and {self.images.name} looks at the pictures before they show."
        if self.prompts:
            return f"A content filter reads the prompts; none looks at the pictures, because {self.lacking}"
        return f"No content filter is on{f', because {self.lacking}' if self.lacking else ''}."


def guard_for(is_miniature: bool) -> Guard:
    """As IMPRESSIONISM_FILTER says, else on for FLUX. An image filter that cannot be had is said to be missing."""
    source = os.environ.get("IMPRESSIONISM_FILTER") or ("off" if is_miniature else CLASSIFIER)
    if source == "off":
        return Guard(lacking="the miniature knows only harmless scenes" if is_miniature else "it was switched off")
    try:
        return Guard(prompts=True, images=ImageFilter(source))
    except UserError as problem:
        guard = Guard(prompts=True, lacking=f"its weights cannot be had: {problem}")
        logger.warning(guard.about())
        return guard

"""Says what is wrong with an adapter's folder before the Hub or its users find out. It needs no network.

    python -m model_card check runs/NAME/adapter

It takes anyone's adapter folder: the Hub's rules for the front matter, the licence, the pictures, what a reader must
find in the text, Python blocks that can work, and a file whose strength means the same in every tool. It reads a card
and never runs its code.
"""

import ast
import contextlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from impressionism import names
from impressionism.errors import UserError
from impressionism.records import Run, Scores, parsed
from model_card import weights
from model_card.presets import FLUX
from model_card.weights import when

LARGEST_PICTURE = 2_000_000  # bytes
LARGEST_FRONT_MATTER, DEEPEST_FRONT_MATTER = 200_000, 20  # bytes, levels of nesting
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PLACEHOLDER = re.compile(r"\bTODO\b|\[More Information Needed\]|\bFIXME\b|<your[ -]|lorem ipsum", re.IGNORECASE)
STEPS = re.compile(
    r"(\d[\d,]*)\s+(?:training|train|optimi[sz]er) steps|trained (?:for|over) (\d[\d,]*) steps|"
    r"(?<!inference_)(?:\b|_)steps\W{1,5}(\d[\d,]+\d)",
    re.IGNORECASE,
)
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)|<img\b([^>]*)>")
PYTHON = re.compile(r"^```(?:python|py)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class ModelCard:
    """A README.md: front matter and text."""

    folder: Path
    head: dict[str, Any]
    """The front matter."""
    text: str
    """What follows it."""

    @property
    def bases(self) -> list[str]:
        return as_list(self.head.get("base_model"))

    @property
    def tags(self) -> list[Any]:
        return as_list(self.head.get("tags"))

    @property
    def is_flux_dev(self) -> bool:
        return any(str(base).lower().startswith("black-forest-labs/flux.1-") and "schnell" not in str(base).lower()
                   for base in self.bases)  # fmt: skip

    @property
    def is_miniature(self) -> bool:
        return not self.bases and "miniature" in self.tags

    @property
    def widget(self) -> list[dict[str, Any]]:
        """The entries that have the right form."""
        return [entry for entry in as_list(self.head.get("widget")) if isinstance(entry, dict)]


class FrontMatterLoader(yaml.SafeLoader):
    """YAML without aliases and with limited nesting, so that a hostile card costs nothing."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        self.depth += 1
        if self.depth > DEEPEST_FRONT_MATTER:
            raise yaml.YAMLError(f"it is nested deeper than {DEEPEST_FRONT_MATTER} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def check(folder: Path, *, base: str | None = None) -> int:
    """Prints every fault as a sentence, and returns the exit status: 1 where there is one."""
    found = faults(folder, base)
    for fault in found:
        print(f"- {fault}", file=sys.stderr)
    count = f"{len(found)} fault{'s' * (len(found) > 1)}" if found else "nothing is wrong"
    print(f"{folder}: {count}.", file=sys.stderr)
    return 1 if found else 0


def faults(folder: Path, base: str | None = None) -> list[str]:
    """Everything that is wrong, one sentence each. `base`: the base model's folder, or miniature; without it the
    weights are compared with FLUX.1-dev's layers."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; name an adapter's folder, such as runs/NAME/adapter.")
    if not (folder / "README.md").exists():
        if not any(folder.glob("*.safetensors")):
            return [f"There is neither a README.md nor an adapter in {folder}: name an adapter's folder, such as "
                    "runs/NAME/adapter."]  # fmt: skip
        return ["There is no README.md: write it with `python -m model_card render RUN`."]
    try:
        card = read(folder)
    except (UserError, UnicodeDecodeError) as error:
        return [str(error)]
    transformer = names.MINIATURE if base == "miniature" or (base is None and card.is_miniature) else base
    if transformer and not (Path(transformer) / "transformer" / "config.json").exists():
        raise UserError(f"--base {base} is not the folder of a FLUX pipeline: it has no transformer/config.json.")
    return [
        *(fault for rule in RULES for fault in rule(card)),
        *weights.faults(folder, Path(transformer) if transformer else None),
    ]


def read(folder: Path) -> ModelCard:
    """The card's front matter and text, split as the Hub splits them."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    content = (folder / "README.md").read_text(encoding="utf-8")
    match = REGEX_YAML_BLOCK.search(content)
    if not match:
        raise UserError("README.md has no front matter: it must begin with ---, YAML, ---.")
    if len(match[2]) > LARGEST_FRONT_MATTER:
        raise UserError(f"The front matter is longer than {LARGEST_FRONT_MATTER // 1000} kB.")
    try:
        head = yaml.load(match[2], FrontMatterLoader) or {}  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits
        raise UserError(f"The front matter is not valid YAML: {' '.join(str(error).split()):.300}.") from error
    if not isinstance(head, dict):
        raise UserError("The front matter must hold keys with values.")
    return ModelCard(folder, head, content[match.end() :])


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


# ---- The front matter


def keys(card: ModelCard) -> list[str]:
    """Keys that decide how the Hub shows and loads it."""
    head, tags = card.head, card.tags
    base, listed = head.get("base_model"), head.get("datasets")
    linked = set(re.findall(r"huggingface\.co/datasets/([\w.-]+/[\w.-]+)", card.text))
    return when(
        (head.get("pipeline_tag") != "text-to-image", "pipeline_tag should be text-to-image, or nobody will find it."),
        (head.get("library_name") != "diffusers", "library_name should be diffusers."),
        ("lora" not in tags, "tags should include lora: otherwise the Hub's snippet does not load it as an adapter."),
        (not all(isinstance(tag, str) for tag in tags), "tags should be words."),
        (len({str(tag) for tag in tags}) < len(tags), "A tag is listed twice."),
        ("datasets" in head and not isinstance(listed, list), "datasets should be a list of Hub ids."),
        ([entry for entry in as_list(listed) if not isinstance(entry, str)],
         "datasets should hold Hub ids and nothing empty."),
        (linked and not as_list(listed),
         f"The text links the dataset {min(linked, default='')}, but datasets does not list it."),
    ) + ([] if card.is_miniature else when(
        ("base_model" not in head, "base_model is missing: the Hub cannot say what the adapter belongs to."),
        ("base_model" in head and not (isinstance(base, str) and HUB_ID.fullmatch(base)),
         f"base_model should be one Hub id, not {base!r:.80}: the Hub's snippet uses it as it is."),
        (head.get("base_model_relation") != "adapter", "base_model_relation should be adapter."),
    ))  # fmt: skip


def widgets(card: ModelCard) -> list[str]:
    """Pictures with the prompts that made them; the Hub takes its snippet's prompt from the first."""
    listed, trigger = card.head.get("widget"), card.head.get("instance_prompt")
    if not isinstance(listed, list) or not listed:
        return ['"widget" must be an array of prompts with their pictures: the gallery shows it.']
    complete = [entry for entry in card.widget if isinstance(entry.get("text"), str) and url_of(entry)]
    first = str(card.widget[0].get("text", "")) if card.widget else ""
    known = {"negative_prompt", "guidance_scale", "num_inference_steps"}
    unknown = {key for entry in card.widget for key in entry.get("parameters") or {}} - known
    return when(
        (len(complete) < len(listed), "Each entry of widget needs a text and output.url."),
        (trigger and str(trigger).lower() not in first.lower(),
         f"The first prompt of widget lacks the trigger {trigger!r}, so the Hub's snippet would paint without it."),
        (unknown, f"The Hub knows no widget parameter {min(unknown, default='')}; mention it in the text."),
        (card.is_flux_dev and not trigger, "instance_prompt is missing: nobody can know the trigger."),
    )  # fmt: skip


def url_of(entry: dict[str, Any]) -> str:
    output = entry.get("output")
    return str(output.get("url", "")) if isinstance(output, dict) else ""


def results(card: ModelCard) -> list[str]:
    """model-index: the Hub's rules, and the same values as the records beside the folder."""
    from huggingface_hub.repocard_data import model_index_to_eval_results

    if "model-index" not in card.head:
        silent = not re.search(r"not measured|not evaluated", card.text, re.IGNORECASE)
        return when((silent, "There are no results: fill model-index, or say in the text that nothing was measured."))
    try:
        _, found = model_index_to_eval_results(card.head["model-index"])
    except (KeyError, TypeError, AttributeError) as error:
        return [f"model-index cannot be read: it lacks {error}."]
    odd = [one.metric_name or one.metric_type for one in found if not isinstance(one.metric_value, int | float)]
    record, stale = card.folder.parent / "scores.json", []
    if record.exists() and not odd:
        known = {row.name: row.adapter.value for row in parsed(record, Scores.from_json).metrics if row.adapter}
        stale = [
            f"model-index says {one.metric_type} is {one.metric_value}, and scores.json "
            f"{known.get(one.metric_type, 'nothing')}: render the card again."
            for one in found
            if not one.metric_type.startswith("human-")
            and abs(known.get(one.metric_type, float("inf")) - one.metric_value) > 1e-3
        ]
    return stale[:1] + when(
        (odd, f"model-index: {odd[0] if odd else ''} has no number."),
        ([one for one in found if not isinstance(one.dataset_config, str | None)],
         "model-index: dataset.config must be a string."),
    )  # fmt: skip


def carbon(card: ModelCard) -> list[str]:
    emissions = card.head.get("co2_eq_emissions")
    grams = emissions.get("emissions") if isinstance(emissions, dict) else emissions
    if grams is None:
        silent = not re.search(r"CO2|CO₂|carbon", card.text)
        return when((silent, "co2_eq_emissions is missing: measure it, or say in the text that it was not measured."))
    return when(
        (not isinstance(grams, int | float), "co2_eq_emissions.emissions should be grams, as a number."),
        (isinstance(emissions, dict) and not emissions.get("source"), "co2_eq_emissions should name its source."),
    )


# ---- The licence


def licence(card: ModelCard) -> list[str]:
    """The trio where the Hub does not know the licence; and sections 3a to 3c of the FLUX.1 [dev] Non-Commercial
    License, which ask something of whoever hands the adapter on."""

    def text_of(*names_: str) -> str:
        found = next((card.folder / name for name in names_ if (card.folder / name).is_file()), None)
        return found.read_text(encoding="utf-8", errors="replace") if found else ""

    head, named = card.head, card.head.get("license")
    name, link = head.get("license_name"), str(head.get("license_link", ""))
    is_file = link and not link.startswith(("http://", "https://"))
    notice, quoted = text_of("NOTICE", "NOTICE.md", "NOTICE.txt"), " ".join(FLUX.attribution.split())
    here = {file.name for file in card.folder.iterdir()}
    return when(
        (not named, "license is missing: without one nobody may use the adapter."),
        (named == "other" and not name, "license: other needs license_name."),
        (named == "other" and not link, "license: other needs license_link, a file here or an address."),
        (named == "other" and is_file and not (card.folder / link).is_file(),
         f"license_link names {link}, which is not here."),
    ) + (when(
        ((named, name) != ("other", FLUX.license["license_name"]),
         f"An adapter of FLUX.1 [dev] is under its licence, not {named} / {name}: license other, license_name "
         f"{FLUX.license['license_name']}."),
        ("Non-Commercial License" not in text_of("LICENSE.md", "LICENSE"),
         "LICENSE.md should hold the FLUX.1 [dev] licence (section 3a)."),
        (quoted not in " ".join(notice.split()), "NOTICE should hold the Attribution Notice verbatim (section 3b)."),
        (not re.search(r"\bmodified\b", notice), "NOTICE should say that the model was modified (section 3c)."),
    ) if card.is_flux_dev else when(
        (named and not here & {"LICENSE", "LICENSE.md", "LICENSE.txt"},
         "There is no LICENSE.md with the licence's text."),
    ))  # fmt: skip


# ---- The pictures


def pictures(card: ModelCard) -> list[str]:
    faults_, urls = [], []
    for alt, url, tag in PICTURE.findall(card.text):
        url = url or (re.search(r"src=[\"']?([^\"'\s>]+)", tag) or ["", ""])[1]
        urls.append(url)
        if not (alt or re.search(r"alt=[\"'][^\"']+", tag)):
            faults_.append(f"The picture {url} has no alternative text.")
    local = [url for url in dict.fromkeys([*urls, *map(url_of, card.widget)]) if url and "://" not in url]
    return [*faults_, *(fault for url in local for fault in picture(card.folder, url))]


def picture(folder: Path, url: str) -> list[str]:
    file = folder / url
    if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
        return [f"The picture {url} is not here."]
    if (size := file.stat().st_size) > LARGEST_PICTURE:
        return [f"The picture {url} is {size / 1e6:.1f} MB: make it smaller than {LARGEST_PICTURE / 1e6:g} MB."]
    with contextlib.suppress(OSError, SyntaxError, Image.DecompressionBombError), Image.open(file) as image:
        image.load()
        return []
    return [f"The picture {url} cannot be read."]


# ---- What a reader must find in the text


def text(card: ModelCard) -> list[str]:
    galleries = len(re.findall(r"<Gallery\s*/>", card.text))
    headings = " ".join(re.findall(r"^#+ (.+)$", card.text, re.MULTILINE)).lower()
    trigger = card.head.get("instance_prompt")
    left = PLACEHOLDER.search(card.text)
    promised = sorted(set(re.findall(r"`([\w.-]+\.safetensors)`", card.text)))
    return [
        f"The text names {name}, which is not here." for name in promised if not (card.folder / name).exists()
    ] + when(
        (left, f"A placeholder was left: {left[0] if left else ''}."),
        (galleries != 1, f"<Gallery /> should appear once, not {galleries} times: it shows the widget."),
        (trigger and str(trigger) not in card.text, f"The text does not mention the trigger, {trigger!r}."),
        (not re.search(r"\bseeds?\b", card.text), "No seed is given: nobody can paint the pictures again."),
        (not re.search(r"\bstrength\b|\bscale\b|\bweight of\b", card.text), "No strength is recommended."),
        (not re.search(r"limit|bias|fail|worst", headings), "No heading mentions limits or failures."),
        (not re.search(r"licen[sc]e", headings), "No heading mentions the licence."),
    )


def steps(card: ModelCard) -> list[str]:
    """One number of training steps, that of run.json where it is at hand."""
    found = [next(filter(None, groups)) for groups in STEPS.findall(card.text)]
    counts = {int(re.sub(r"\D", "", number)) for number in found}
    record = next((file for file in (card.folder / "run.json", card.folder.parent / "run.json") if file.exists()), None)
    real = parsed(record, Run.from_json).steps if record else None
    listed = ", ".join(map(str, sorted(counts)))
    return when(
        (len(counts) > 1, f"It gives several numbers of training steps ({listed}): which is right?"),
        (len(counts) == 1 and real and real not in counts, f"It says {listed} training steps; run.json says {real}."),
    )


# ---- Its Python blocks


def snippets(card: ModelCard) -> list[str]:
    """Blocks that do not parse, and mistakes that a reader would stumble over."""
    import diffusers

    trees, found = [], []
    for number, block in enumerate(PYTHON.findall(card.text), 1):
        try:
            trees.append(list(ast.walk(ast.parse(block))))
        except (SyntaxError, ValueError, RecursionError) as error:
            found.append(f"Python block {number} is not valid Python: {error}.")
    attributes = [{node.attr for node in nodes if isinstance(node, ast.Attribute)} for nodes in trees]
    loading = [(nodes, used) for nodes, used in zip(trees, attributes, strict=True) if "from_pretrained" in used]
    for nodes, used in loading:
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "diffusers"]
        classes = sorted({alias.name for node in imports for alias in node.names})
        unknown = [name for name in classes if not hasattr(diffusers, name)]
        others = [name for name in classes if re.fullmatch(r"(?!Flux|Diffusion)\w+Pipeline", name)]
        named = {node.value.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "weight_name"
                 and isinstance(node.value, ast.Constant)}  # fmt: skip
        absent = sorted(str(name) for name in named if not (card.folder / str(name)).is_file())
        found += when(
            (unknown, f"The snippet imports {', '.join(unknown)}, which diffusers does not have."),
            (others, f"The snippet uses {', '.join(others)}, which is not a FLUX pipeline."),
            (used & {"unet", "load_attn_procs"}, "The snippet uses a unet; FLUX has a transformer."),
            ("load_lora_weights" not in used, "The snippet never loads the adapter (load_lora_weights)."),
            (used & {"float16", "half"}, "The snippet computes in float16, where FLUX overflows; use bfloat16."),
            (absent, f"The snippet loads {', '.join(absent)}, which is not here."),
        )
    return found or when((not loading, "No Python block shows how to load it with diffusers."))


RULES: tuple[Callable[[ModelCard], list[str]], ...] = (
    keys, widgets, results, carbon, licence, pictures, text, steps, snippets
)  # fmt: skip

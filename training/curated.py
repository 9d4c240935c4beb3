"""What of a curated dataset goes to the Hub: the splits as `curate` wrote them, its records, and a card made of these.

The Hub, and `datasets.load_dataset`, read the Arrow files where they lie; so does plain `hf upload`. The report stays
here: it shows pictures that were dropped.
"""

import json
from pathlib import Path
from typing import Any

import datasets
import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from impressionism.errors import UserError
from impressionism.hub import digest_of
from training.parcel import UploadBundle, found, one_line, plain, portable, problems_of

RECORD = "curate.json"
SHARDS = "*/data-*.arrow"
BELONGS = (SHARDS, "*/dataset_info.json", "*/state.json", "dataset_dict.json", "pictures.jsonl",
           "README.md", "LICENSE", "LICENSE.md", "NOTICE")  # fmt: skip
CARD = """---
{front_matter}
---

# {name}

Pictures to train on, {result}. They were chosen from {source} by `python -m training curate` with the settings below;
`pictures.jsonl` says of each what was found and why it was kept or dropped. No training sees the split `validation`.

`datasets.load_dataset` reads it, and a recipe takes its id as `data.source`. Columns: {columns}.

```yaml
{settings}```
"""


def gather(folder: Path, licence: str | None) -> UploadBundle:
    """The dataset's files, if nothing speaks against them; raises with all that does."""
    if not (folder / RECORD).exists():
        raise UserError(
            f"{folder} is no dataset that `training curate` wrote (no {RECORD}): set data.source to one, or send it as "
            f"it is with `hf upload USER/NAME {folder} --type dataset`."
        )
    files = found(folder, BELONGS)
    shards = sorted(folder.glob(SHARDS))
    try:
        record = portable(read_json(folder / RECORD))
        if "README.md" not in files and licence:
            files["README.md"] = card(folder, record, licence).encode()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder} cannot be read ({one_line(error)}); curate it again.") from None
    files[RECORD] = json.dumps(record, indent=1, ensure_ascii=False).encode()
    problems = [] if shards else ["its pictures are missing; curate it again"]
    problems += licence_problems(folder / "README.md", licence) + problems_of(files)
    if problems:
        raise UserError(f"{folder} cannot go to the Hub: {'; '.join(problems)}.")
    name = plain(folder.resolve().name)
    return UploadBundle(
        kind="dataset",
        name=name,
        folder=folder,
        files=files,
        tag=f"{name}-{digest_of(*shards)[:8]}",
        tagged=tuple(shard.relative_to(folder).as_posix() for shard in shards),
        mark=RECORD,
        title=f"{name}, curated",
        description=record["result"],
    )


def licence_problems(readme: Path, licence: str | None) -> list[str]:
    """Whether somebody says under which terms the pictures may be used: the folder's own card, or whoever sends it."""
    if not readme.exists():
        asked = "nothing says under which licence the pictures may be used; name it with --license, such as cc0-1.0"
        return [] if licence else [asked]
    try:
        stated = DatasetCard.load(readme).data.to_dict().get("license")
    except (ValueError, yaml.YAMLError) as error:
        return [f"the front matter of its README.md is no YAML ({one_line(error)}); mend it"]
    if not stated:
        return ["its README.md names no licence; add `license:` to the front matter"]
    if licence not in (None, stated):
        return [f"its README.md says that the licence is {stated}; leave --license out, or change it there"]
    return []


def card(folder: Path, record: dict[str, Any], licence: str) -> str:
    """README.md of a folder that has none."""
    splits = read_json(folder / "dataset_dict.json")["splits"]
    columns = read_json(folder / splits[0] / "dataset_info.json")["features"]
    settings = record["of"]["curate"]
    source = settings["source"]
    on_hub = record["of"]["files"] is None  # else the hash of a folder's names
    link = f"[{source}](https://huggingface.co/datasets/{source})" if on_hub else f"the folder `{source}`"
    files = [{"split": split, "path": f"{split}/data-*.arrow"} for split in splits]
    head = DatasetCardData(
        license=licence,
        task_categories=["text-to-image"],
        source_datasets=[source] if on_hub else None,
        configs=[{"config_name": "default", "data_files": files}],
    )
    return CARD.format(
        front_matter=head.to_yaml(),
        name=folder.resolve().name,
        result=record["result"],
        source=link,
        columns=", ".join(f"`{column}`" for column in columns),
        settings=yaml.safe_dump({"curate": settings}, sort_keys=False, allow_unicode=True),
    )


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def check_returned(parcel: UploadBundle, repo: str, revision: str) -> None:
    """The first picture of each split, read as a training run would read it, is the one that left."""
    here: Any = datasets.load_from_disk(str(parcel.folder))
    for split, rows in here.items():
        there = datasets.load_dataset(repo, revision=revision, split=split, streaming=True)
        if first(there) != first(rows):
            raise UserError(f"The split {split} came back from the Hub changed: do not use it.")


def first(rows: Any) -> dict[str, Any]:
    """A row with its picture's bytes as they are stored."""
    return next(iter(rows.with_format("arrow"))).to_pylist()[0]

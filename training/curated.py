"""Curated pictures → the Hub, as a dataset in Parquet with the captions that training sees.

    python -m training push RECIPE.yaml --dataset --license cc0-1.0 [--repo USER/NAME] [--private] [--dry-run]

Its split `validation` is the one that no training sees, and its card has the settings of `curate`. The report stays
here: it shows pictures that were dropped.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, HfApi, hf_hub_download

from impressionism.errors import UserError
from impressionism.files import pictures_in, read_text
from training.examples import sample_id, written_captions
from training.parcel import one_line, plain, portable, secrets, secrets_in
from training.push import AGAIN, address, prepare_repo, proposed, upload_errors
from training.recipe import TrainingConfig
from training.sources import json_lines, say

if TYPE_CHECKING:
    import datasets

MARK = "data/train-00000-of-"  # how the first Parquet file of a repository of ours begins
CARD = """
# {name}

Pictures to train on, {result}. They were chosen from {source} by `python -m training curate` with the settings below.
No training sees the split `validation`.

`datasets.load_dataset` reads it, and a recipe takes its id as `data.source`. Columns: {columns}.

```yaml
{settings}```
"""


def push_dataset(
    recipe: TrainingConfig, license: str | None, repo: str | None, *, private: bool, pull_request: bool, dry_run: bool
) -> None:
    """Check the pictures that `curate` left, upload them, and compare what arrived."""
    import datasets

    folder = Path(recipe.data.source)
    record = read_record(folder)
    problems = licence_problems(folder / "README.md", license)
    rows, secrets_found = read_rows(folder, recipe)
    if problems := problems + secrets_found + ([] if rows else ["its pictures are missing; curate it again"]):
        raise UserError(f"{folder} cannot go to the Hub: {'; '.join(problems)}.")

    name = plain(folder.resolve().name)
    columns = list(dict.fromkeys(key for split in rows.values() for row in split for key in row if key != "file_name"))
    tag = f"{name}-{hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:8]}"
    title = f"{name}, curated ({tag})"
    api = HfApi()
    repo = address(api, name, repo, dry_run)
    new = f"{'private' if private else 'public'} if it is new, tag {tag}"
    say(f"To {repo} ({'as a pull request' if pull_request else new}): {record['result']}")
    say(f"  columns image, {', '.join(columns)}, and a card; what else lies in {folder} stays here.")
    if dry_run:
        say("Nothing was sent (--dry-run).")
        return

    with upload_errors(repo):
        is_private = prepare_repo(api, repo, "dataset", MARK, private=private, pull_request=pull_request)
        if tag in (ref.name for ref in api.list_repo_refs(repo, repo_type="dataset").tags):
            say(f"{repo} holds all of this; nothing to do.")
            return
        if pull_request and (url := proposed(api, repo, "dataset", title)):
            say(f"{url} proposes all of this; nothing to do.")
            return
        splits = datasets.DatasetDict({name: table(folder / name, lines, columns) for name, lines in rows.items()})
        commit = splits.push_to_hub(repo, private=private, commit_message=title, create_pr=pull_request)
        revision = commit.pr_revision or "main"  # pyright: ignore[reportOptionalMemberAccess]
        written = Path(hf_hub_download(repo, "README.md", revision=revision, repo_type="dataset"))
        text = card(folder, record, license, DatasetCard(read_text(written)), columns)
        last = api.upload_file(
            path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo, repo_type="dataset",
            revision=revision, commit_message="The card",
        )  # fmt: skip
        compare(repo, splits, last.oid)
        if not pull_request:
            api.create_tag(repo, tag=tag, revision=last.oid, repo_type="dataset", exist_ok=True)
    visible = "private" if is_private else "public"
    say(f"{commit.pr_url or commit.commit_url} ({visible}): the first picture of each split came back as it left.")  # pyright: ignore[reportOptionalMemberAccess]
    if not pull_request:
        say(f"Train on it: data.source={repo} data.revision={tag}")


def read_record(folder: Path) -> dict[str, Any]:
    """curate.json, without what holds on this machine only."""
    if not (folder / "curate.json").exists():
        raise UserError(
            f"{folder} is no dataset that `training curate` wrote (no curate.json): set data.source to one, or send it "
            f"as it is with `hf upload USER/NAME {folder} --type dataset`."
        )
    try:
        record = portable(json.loads(read_text(folder / "curate.json")))
        return {"result": record["result"], "settings": record["of"]["curate"], "files": record["of"]["files"]}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} cannot be read ({one_line(error)}); curate it again.") from error


def read_rows(folder: Path, recipe: TrainingConfig) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    """({split: a row for each picture, with the caption that it is trained on}, the secrets in them)."""
    captions = written_captions(recipe.data)
    splits, problems, patterns = {}, [], secrets()
    for split in ("train", "validation"):
        file = folder / split / "metadata.jsonl"
        lines = {line["file_name"]: line for line in json_lines(file, ("file_name",))} if file.exists() else {}
        rows = []
        for path in pictures_in(folder / split)[0]:
            row = {"file_name": path.name, "id": sample_id(path.read_bytes())} | lines.get(path.name, {})
            if written := captions.get(row["id"]):
                row[recipe.data.caption_column], content = written
                row |= {"content": content.removeprefix(recipe.data.trigger).strip()} if content else {}
            rows.append(row)
        if rows:
            splits[split] = rows
            texts = (value for row in rows for value in row.values())
            problems += secrets_in(f"{split}/metadata.jsonl", texts, patterns)
    return splits, problems


def table(folder: Path, rows: list[dict[str, str]], columns: list[str]) -> "datasets.Dataset":
    import datasets

    values = {"image": [str(folder / row["file_name"]) for row in rows]}
    values |= {column: [row.get(column) for row in rows] for column in columns}
    features = {column: datasets.Value("string") for column in values} | {"image": datasets.Image()}
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def licence_problems(readme: Path, licence: str | None) -> list[str]:
    """Whether somebody says under which terms the pictures may be used: the folder's own card, or whoever sends it."""
    if not readme.exists():
        missing = "nothing says under which licence the pictures may be used; name it with --license, such as cc0-1.0"
        return [] if licence else [missing]
    try:
        stated = DatasetCard(read_text(readme)).data.to_dict().get("license")
    except (ValueError, yaml.YAMLError) as error:
        return [f"the front matter of its README.md cannot be read ({one_line(error)}); correct it"]
    if not stated:
        return ["its README.md names no licence; add `license:` to the front matter"]
    if licence not in (None, stated):
        return [f"its README.md says that the licence is {stated}; leave --license out, or change it there"]
    return []


def card(folder: Path, record: dict[str, Any], licence: str | None, pushed: DatasetCard, columns: list[str]) -> str:
    """README.md: the folder's own or one made of the record, with what `datasets` wrote about the files."""
    facts = {key: value for key, value in pushed.data.to_dict().items() if key in ("configs", "dataset_info")}
    if (folder / "README.md").exists():
        own = DatasetCard(read_text(folder / "README.md"))
        own.data = DatasetCardData(**own.data.to_dict() | facts)
        return str(own)
    source, on_hub = record["settings"]["source"], record["files"] is None  # else the hash of a folder's names
    link = f"[{source}](https://huggingface.co/datasets/{source})" if on_hub else f"the folder `{source}`"
    data = DatasetCardData(
        license=licence, task_categories=["text-to-image"], source_datasets=[source] if on_hub else None, **facts
    )
    text = CARD.format(
        name=folder.resolve().name, result=record["result"], source=link,
        columns=", ".join(f"`{column}`" for column in ("image", *columns)),
        settings=yaml.safe_dump({"curate": record["settings"]}, sort_keys=False, allow_unicode=True),
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n{text}"


def compare(repo: str, splits: "datasets.DatasetDict", revision: str) -> None:
    """The first picture of each split, as a training run would read it, is the one that left."""
    import datasets

    for split, rows in splits.items():
        there: Any = datasets.load_dataset(repo, revision=revision, split=split, streaming=True)  # pyright: ignore[reportArgumentType, reportCallIssue]
        there, here = (one.cast_column("image", datasets.Image(decode=False)) for one in (there, rows))
        first, left = next(iter(there)), here[0]
        content = Path(left["image"]["path"]).read_bytes()
        if first["image"]["bytes"] != content or first | {"image": None} != left | {"image": None}:
            raise UserError(f"The split {split} came back from the Hub changed: {AGAIN}.")

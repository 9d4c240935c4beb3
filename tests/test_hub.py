"""The Hub of hub.py answers as other tests rely on; test_impressionism_hub.py has the painter's way to weights."""

import shutil
from pathlib import Path

import pytest
from hub import Hub
from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

from impressionism import names


def test_what_is_missing_or_private_is_told_apart(hub: Hub, tiny_adapter: Path) -> None:
    hub.add_repo("renoir/secret", tiny_adapter, private=True)
    hub.add_repo("renoir/open", tiny_adapter)
    for repo in ("renoir/nowhere", "renoir/secret"):
        with pytest.raises(errors.RepositoryNotFoundError):
            hf_hub_download(repo, names.WEIGHTS_FILE)
    with pytest.raises(errors.RevisionNotFoundError):
        hf_hub_download("renoir/open", names.WEIGHTS_FILE, revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        hf_hub_download("renoir/open", "nothing.txt")


def test_a_revision_stays_what_it_was(hub: Hub, tiny_adapter: Path, tmp_path: Path) -> None:
    api, folder = HfApi(), shutil.copytree(tiny_adapter, tmp_path / "adapter")
    api.create_repo("monet/haystacks")
    for text in ("first", "second"):
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{text}")
        api.upload_folder(repo_id="monet/haystacks", folder_path=folder)
        api.create_tag("monet/haystacks", tag=text)
    api.create_branch("monet/haystacks", branch="old", revision="first")
    for revision, text in {"first": "first", "old": "first", "second": "second", "main": "second"}.items():
        found = Path(snapshot_download("monet/haystacks", revision=revision))
        assert (found / "README.md").read_text().endswith(text)
    api.delete_file("README.md", "monet/haystacks")
    assert hub.files("monet/haystacks").keys() == {names.WEIGHTS_FILE}


def test_datasets_and_spaces_live_beside_models(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "paintings").mkdir()
    (tmp_path / "paintings" / "metadata.jsonl").write_text("{}")
    api = HfApi()
    for kind, options in {"dataset": {}, "space": {"space_sdk": "gradio"}}.items():
        api.create_repo("monet/paintings", repo_type=kind, private=True, **options)
        api.upload_folder(repo_id="monet/paintings", folder_path=tmp_path / "paintings", repo_type=kind)
        found = Path(snapshot_download("monet/paintings", repo_type=kind))
        assert (found / "metadata.jsonl").read_text() == "{}" and hub.repos[f"{kind}s/monet/paintings"].private

"""The Hub of hub.py keeps what other tests rely on: the painter's way to weights, and each way it can fail."""

import shutil
from pathlib import Path

import pytest
from hub import STRANGER, Hub
from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download

from impressionism import names
from impressionism.errors import UserError
from impressionism.paint import paint
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams

BOAT = GenerationParams(prompt="a boat", steps=2, width=64, height=64)


def test_flux_under_its_own_name_paints_as_from_its_folder(
    hub: Hub, tiny_flux: Path, tiny_adapter: Path, tiny_painter: Painter
) -> None:
    pipe = hub.add_repo(names.BASE, tiny_flux, gated=True)
    pipe.accepted.add("monet")
    adapter = hub.add_repo("monet/haystacks", tiny_adapter, private=True)
    painter = load_pipeline(names.BASE, "monet/haystacks", device="cpu")
    assert painter.provenance.base_revision == pipe.find("main")
    assert painter.provenance.adapter_revision == adapter.find("main")
    assert paint(painter, BOAT).tobytes() == paint(tiny_painter, BOAT).tobytes()
    asked = len(hub.calls)
    load_pipeline(names.BASE, "monet/haystacks", device="cpu")
    assert not any("/lfs/" in call for call in hub.calls[asked:])  # all of it is in the cache


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, r"asks you to accept its licence at .*, then log in with `hf auth login`"),
        (STRANGER, r"asks you to accept its licence at http://[0-9.:]+/black-forest-labs/FLUX\.1-dev; or"),
        ("hf_revoked", r"HTTP 401"),
    ],
)
def test_a_gated_repository_asks_for_a_token_and_for_its_terms(
    hub: Hub, tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, sentence: str
) -> None:
    hub.add_repo(names.BASE, tiny_flux, gated=True)
    hub.lead_here(monkeypatch, tmp_path / "stranger", token)
    with pytest.raises(UserError, match=sentence):
        load_pipeline(names.BASE, "none", device="cpu")


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


def test_a_download_goes_on_where_it_was_cut(hub: Hub, tiny_adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo("me/haystacks", tiny_adapter)
    hub.cut("GET /lfs/", after=10_000)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    found = hf_hub_download("me/haystacks", names.WEIGHTS_FILE)
    assert Path(found).read_bytes() == (tiny_adapter / names.WEIGHTS_FILE).read_bytes()
    assert hub.count("GET /lfs/") == 2 and hub.count("GET /lfs/.* bytes=10000-") == 1


def test_datasets_and_spaces_live_beside_models(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "paintings").mkdir()
    (tmp_path / "paintings" / "metadata.jsonl").write_text("{}")
    api = HfApi()
    for kind, options in {"dataset": {}, "space": {"space_sdk": "gradio"}}.items():
        api.create_repo("monet/paintings", repo_type=kind, private=True, **options)
        api.upload_folder(repo_id="monet/paintings", folder_path=tmp_path / "paintings", repo_type=kind)
        found = Path(snapshot_download("monet/paintings", repo_type=kind))
        assert (found / "metadata.jsonl").read_text() == "{}" and hub.repos[f"{kind}s/monet/paintings"].private

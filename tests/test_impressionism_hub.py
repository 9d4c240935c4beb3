"""From a name on the Hub to a painter, over HTTP: the path a user takes, and a sentence for each way it can fail."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxPipeline
from hub import STRANGER, Hub, sha256
from huggingface_hub import HfApi, close_session, constants
from readonly import read_only
from tiny import make_tiny_adapter

from impressionism import __main__ as terminal
from impressionism import names
from impressionism.errors import UserError, readable_errors
from impressionism.lora_file import find_adapter
from impressionism.paint import encode, initial_latents, paint, pipeline_kwargs
from impressionism.pipeline import Painter, load_pipeline
from impressionism.records import GenerationParams

BOAT = GenerationParams(prompt="a boat", steps=2, width=64, height=64)
ADAPTER = "monet/haystacks"
LFS = "GET /lfs/"


@pytest.fixture
def stocked(hub: Hub, tiny_flux: Path, tiny_adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """FLUX under its own name, gated, its terms taken by monet, and an adapter; no pause between two tries."""
    hub.add_repo(names.BASE, tiny_flux, gated=True).accepted.add("monet")
    hub.add_repo(ADAPTER, tiny_adapter)
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda seconds: None))
    return hub


def load(adapter: str = ADAPTER, **revisions: str) -> Painter:
    return load_pipeline(names.BASE, adapter, "none", "cpu", **revisions)  # type: ignore[arg-type]


def same(painter: Painter, expected: Painter) -> bool:
    return paint(painter, BOAT).tobytes() == paint(expected, BOAT).tobytes()


# ---- The way there


def test_the_lines_of_a_model_card_paint_what_the_painter_paints(stocked: Hub, tiny_painter: Painter) -> None:
    pipe = FluxPipeline.from_pretrained(names.BASE, dtype=torch.float32)
    pipe.load_lora_weights(ADAPTER)
    pipe.set_progress_bar_config(disable=True)
    words = encode(tiny_painter, BOAT.prompt)
    picture = pipe(**pipeline_kwargs(pipe, BOAT, words), latents=initial_latents(pipe, BOAT)).images[0]
    assert picture.tobytes() == paint(tiny_painter, BOAT).tobytes()


def test_the_published_file_paints_at_every_revision_whatever_else_is_there(
    stocked: Hub, tiny_adapter: Path, tmp_path: Path
) -> None:
    published = (tiny_adapter / names.WEIGHTS_FILE).read_bytes()
    another = (make_tiny_adapter(tmp_path, seed=9) / names.WEIGHTS_FILE).read_bytes()
    stocked.add_repo(names.ADAPTER)
    commit = stocked.commit(names.ADAPTER, {names.ADAPTER_FILE: published, names.WEIGHTS_FILE: another})
    old = stocked.commit(names.ADAPTER, {names.WEIGHTS_FILE: another})
    assert find_adapter(names.ADAPTER, commit).name == names.ADAPTER_FILE
    assert find_adapter(names.ADAPTER, old).name == find_adapter(names.ADAPTER, None).name == names.WEIGHTS_FILE


def test_another_base_paints_with_the_same_adapters_when_it_is_named(
    stocked: Hub, tiny_flux: Path, tiny_painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLUX.1-Krea-dev, by its variable; the public few-step adapter is fetched for fast mode, its one file only."""
    stocked.add_repo(KREA := "black-forest-labs/FLUX.1-Krea-dev", tiny_flux)
    repository, _, file = names.ACCELERATOR.rpartition("/")
    (make_tiny_adapter(tmp_path, rank=2, seed=5) / names.WEIGHTS_FILE).rename(tmp_path / file)
    (tmp_path / "Hyper-SDXL-8steps-lora.safetensors").write_bytes(b"another model's")
    stocked.add_repo(repository, tmp_path)
    monkeypatch.setenv(names.ENVIRONMENT["base"], KREA)
    monkeypatch.setenv(names.ENVIRONMENT["adapter"], ADAPTER)
    painter = load_pipeline(device="cpu", fast=True)
    assert same(painter, tiny_painter) and painter.provenance.base == KREA
    accelerator = painter.accelerator
    assert accelerator and (accelerator.recommended_strength, accelerator.steps) == (0.125, 8)
    assert paint(painter, BOAT, fast=True).tobytes() != paint(painter, BOAT).tobytes()
    assert not stocked.count(".*SDXL")


def test_a_download_that_was_cut_goes_on_where_it_was(
    stocked: Hub, tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    stocked.cut(LFS, after=10_000, times=2)
    assert same(load(), tiny_painter)
    assert [stocked.count(f"{LFS}.* bytes={start}-") for start in (10_000, 20_000)] == [1, 1]


def test_after_a_cut_for_good_the_same_command_fetches_only_what_is_missing(
    stocked: Hub, tiny_flux: Path, tiny_painter: Painter
) -> None:
    vae = sha256((tiny_flux / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())
    stocked.cut(f"{LFS}{vae}", after=100, times=99)
    with pytest.raises(UserError, match="the Hub cannot be reached") as caught:
        load()
    assert "\n" not in str(caught.value)
    stocked.faults.clear()
    stocked.calls.clear()
    assert same(load(), tiny_painter)
    assert stocked.count(LFS) == stocked.count(f"{LFS}{vae}") >= 1


def test_a_pinned_revision_stays_while_main_moves_on(stocked: Hub, tiny_painter: Painter, tmp_path: Path) -> None:
    base, adapter = (stocked.repos[page] for page in (names.BASE, ADAPTER))
    pinned = {"model_revision": base.find("main"), "adapter_revision": adapter.find("main")}
    HfApi().create_tag(ADAPTER, tag="haystacks-step-8")
    weights = stocked.files(ADAPTER)[names.WEIGHTS_FILE]
    stocked.commit(names.BASE, {"model_index.json": b"{}"})
    stocked.commit(ADAPTER, {names.WEIGHTS_FILE: weights[:100]})
    assert same(load(**pinned), tiny_painter)
    tagged = load(**(pinned | {"adapter_revision": "haystacks-step-8"}))
    assert same(tagged, tiny_painter) and tagged.provenance.adapter_revision == pinned["adapter_revision"]
    with pytest.raises(UserError, match="is cut off: download it again"):
        load(model_revision=pinned["model_revision"])


def test_a_repository_that_was_renamed_is_found_under_both_names(stocked: Hub, tiny_painter: Painter) -> None:
    stocked.move(ADAPTER, "monet/stacks")
    assert same(load(), tiny_painter)
    assert same(load("monet/stacks"), tiny_painter)


def test_a_busy_or_slow_hub_is_asked_again(stocked: Hub, tiny_painter: Painter) -> None:
    stocked.fail("HEAD .*/resolve/", status=503)
    stocked.fail(LFS, status=429, Retry_After="1")
    stocked.delay("GET /api/models", seconds=0.3)
    assert same(load(), tiny_painter)


def test_what_is_downloaded_shows_how_far_it_is_and_what_is_loaded_does_not(
    stocked: Hub, capsys: pytest.CaptureFixture
) -> None:
    load()
    said = capsys.readouterr().err
    assert "Fetching" in said and "Loading" not in said


# ---- When there is no way


Spoil = Callable[[Hub, pytest.MonkeyPatch], object]


def impatient(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    patch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    hub.delay("GET|HEAD", seconds=0.5, times=99)


def no_model(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    """As FLUX.1-dev's root would look to one who uploaded the single file only."""
    hub.commit(names.BASE, {"flux1-dev.safetensors": b"\0" * 99})


def half_a_model(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    files = hub.files(names.BASE)
    hub.commit(names.BASE, {path: data for path, data in files.items() if not path.startswith("vae/diff")})


def rotten_weights(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    """The right name and size, other bytes."""
    files = hub.files(names.BASE)
    [path] = [path for path in files if path.startswith("vae/diff")]
    hub.stored[sha256(files[path])] = b"\xff" * len(files[path])


def another_model(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    files = hub.files(names.BASE)
    index = json.loads(files["model_index.json"])
    index["_class_name"] = "StableDiffusionXLPipeline"
    hub.commit(names.BASE, files | {"model_index.json": json.dumps(index).encode()})


def no_adapter(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    hub.commit(ADAPTER, {"README.md": b"soon", "adapter.bin": b"\x80"})


def login_page(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    hub.commit(ADAPTER, {names.WEIGHTS_FILE: b"<!DOCTYPE html><html><body>Log in</body></html>"})


def moved_away(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    """As a mirror does that has moved."""
    hub.fail(".*", 308, 99, Location="https://elsewhere.example")


def no_cache(hub: Hub, patch: pytest.MonkeyPatch) -> None:
    """HF_HOME leads into a file."""
    home = Path(constants.HF_HUB_CACHE).parent
    home.parent.mkdir(exist_ok=True)
    home.write_text("")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda hub, patch: patch.delenv("HF_TOKEN"),
            r"accept its licence at .*, then log in with `hf auth",
        ),
        (lambda hub, patch: patch.setenv("HF_TOKEN", STRANGER), r"licence at http://[0-9.:]+/black.*-dev; or"),
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_revoked"), r"HTTP 401\): log in again with `hf auth login`"),
        (lambda hub, patch: hub.fail("/api/models", 403, 99), r"HTTP 403\): give the token read access to gated"),
        (lambda hub, patch: hub.repos.pop(names.BASE), f"The Hub shows no {names.BASE}: check the name"),
        (lambda hub, patch: hub.repos.pop(ADAPTER), f"The Hub shows no {ADAPTER}: check the name"),
        (lambda hub, patch: hub.fail("/api/models", 429, 99, Retry_After="7"), r"HTTP 429\): wait 7 seconds"),
        (lambda hub, patch: hub.fail("/api/models", 429, 99), r"HTTP 429\): wait a few minutes"),
        (lambda hub, patch: hub.fail("/api/models", 500, 99), r"HTTP 500\): try again later"),
        (lambda hub, patch: hub.fail("/resolve/", 502, 99), r"HTTP 502\): try again later"),
        (lambda hub, patch: hub.fail(LFS, 503, 99), r"HTTP 503\): try again later"),
        (lambda hub, patch: hub.fail(LFS, 403, 99), r"HTTP 403\)"),
        (moved_away, r"cannot be reached: check HF_ENDPOINT, which is http://127[^,]*, or unset it"),
        (no_cache, r"cache .*hub cannot be written, because .*: set HF_HOME to a folder that can be"),
        (lambda hub, patch: hub.cut("/api/models", times=99), "the Hub cannot be reached"),
        (impatient, "the Hub cannot be reached"),
        (lambda hub, patch: hub.__exit__(), "the Hub cannot be reached"),
        (lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True), "unset HF_HUB_OFFLINE"),
        (no_model, f"{names.BASE} holds no FluxPipeline"),
        (half_a_model, rf"{names.BASE} is incomplete or damaged \(.*vae.*\); fetch it again"),
        (rotten_weights, rf"{names.BASE} is incomplete or damaged \(.*vae.*\); fetch it again"),
        (another_model, rf"{names.BASE} is a StableDiffusionXLPipeline; this painter is a FluxPipeline"),
        (no_adapter, rf"{ADAPTER} holds no \.safetensors adapter; it has README\.md, adapter\.bin\."),
        (login_page, f"{names.WEIGHTS_FILE} is a web page: download the file itself"),
    ],
)
def test_each_failure_is_one_sentence_with_a_remedy(
    stocked: Hub, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, sentence: str
) -> None:
    spoil(stocked, monkeypatch)
    with pytest.raises(UserError, match=sentence) as caught:
        load()
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".")


def test_what_would_also_do_is_for_the_one_who_asks_to_say(stocked: Hub) -> None:
    stocked.repos.pop(ADAPTER)
    with pytest.raises(UserError, match=r"; or paint without it: --adapter none\.$"):
        load()
    with pytest.raises(UserError, match=r"log in with a token that may read it\.$"), readable_errors(ADAPTER, None):
        HfApi().model_info(ADAPTER)


def test_a_revision_that_is_not_there_is_told_with_where_to_look(stocked: Hub) -> None:
    for revisions in ({"model_revision": "v9"}, {"adapter_revision": "v9"}):
        with pytest.raises(UserError, match=r"has no revision v9; its revisions are at http://[0-9.:]+/.*"):
            load(**revisions)


def test_without_network_the_cache_is_enough_and_its_commit_is_recorded(
    stocked: Hub, tiny_painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = load().provenance
    asked = len(stocked.calls)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    painter = load()
    assert same(painter, tiny_painter) and painter.provenance == online and len(stocked.calls) == asked
    assert online.base_revision == stocked.repos[names.BASE].find("main")
    assert (online.base, online.adapter) == (names.BASE, ADAPTER)
    with pytest.raises(UserError, match=r"me/unknown is not completely on this machine"):
        load("me/unknown")


def test_a_cache_that_others_fill_is_used_as_it_is_though_the_hub_has_a_newer_commit(
    stocked: Hub, tiny_painter: Painter, tiny_adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    online = load().provenance
    for page in (names.BASE, ADAPTER):
        stocked.commit(page, stocked.files(page) | {"news.txt": b"new"})
    cache = Path(constants.HF_HUB_CACHE)
    with read_only(cache):
        painter = load()
    assert same(painter, tiny_painter) and painter.provenance == online
    assert f"the commit of {names.BASE} that is in it is used" in caplog.text
    stocked.add_repo("monet/lilies", tiny_adapter)
    with (
        read_only(cache),
        pytest.raises(UserError, match="cannot be written, because permission is denied: set HF_HOME"),
    ):
        load("monet/lilies")


def test_a_socks_proxy_in_the_environment_is_no_obstacle(stocked: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")  # NO_PROXY leads past it
    close_session()  # the next request reads the environment anew
    assert find_adapter(ADAPTER, None).name == names.WEIGHTS_FILE
    close_session()


@pytest.mark.parametrize(
    ("name", "address"),
    [("HF_ENDPOINT", "htps://mirror"), ("HF_ENDPOINT", "mirror.example:99999"), ("HF_ENDPOINT", "http://[bad"),
     ("ALL_PROXY", "socks9://127.0.0.1:1"), ("https_proxy", "http://:3128")],
)  # fmt: skip
def test_a_malformed_address_in_the_environment_is_named_before_anything_is_loaded(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(name, address)
    assert terminal.main(["a boat"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{name} is '{address}', which is no address such as http") and said.count("\n") == 1

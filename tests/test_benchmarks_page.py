"""The page and the README show what was measured, and say what falls short."""

import copy
import json
import re

import pytest

from benchmarks import miniature, page

MEASURED = [script for script in page.SCRIPTS if page.record(script)]


def test_the_page_is_written_from_the_records():
    assert page.PAGE.read_text() == page.text()


@pytest.mark.parametrize("script", MEASURED)
def test_a_record_says_where_it_was_measured(script: str):
    assert "Python" in page.record(script)["machine"] and page.record(script)["versions"]


def test_every_picture_of_the_page_is_there():
    for picture in re.findall(r"!\[.+?\]\((.+?)\)", page.text()):
        assert (page.HERE / picture).read_bytes().startswith(b"\x89PNG")


def test_what_was_not_measured_is_said(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "page.md.j2").write_text((page.HERE / "page.md.j2").read_text())
    monkeypatch.setattr(page, "HERE", tmp_path)
    assert page.text().count("**not measured.**") == len(page.SCRIPTS)


def test_a_claim_that_falls_short_is_called_so():
    result = json.loads((miniature.HERE / "miniature.json").read_text())
    for subject, verdict in ((0.9, False), (0.89, True)):
        short = copy.deepcopy(result)
        short["a_recognition"]["base"]["subject"] = subject
        [line] = [line for line in miniature.table(short).splitlines() if "the base: subject recognised" in line]
        assert ("not reached" in line) == verdict


@pytest.mark.parametrize(
    "guess, subject, named",
    [
        ("arched bridges over water", "bridge", True),
        ("House (cottage)", "cottage", True),
        ("field of flowers", "poppies", False),
        ("ice floes (perhaps water lilies)", "lilies", False),
        ("?", "windmill", False),
    ],
)
def test_a_blind_guess_counts_when_it_has_the_noun(guess: str, subject: str, named: bool):
    assert miniature.names_it(guess, subject) == named


def test_the_record_is_of_the_bundled_weights():
    from impressionism.hub import digest_of
    from impressionism.names import MINIATURE, MINIATURE_ADAPTER, WEIGHTS_FILE
    from impressionism.pipeline import weight_files

    provenance = json.loads((miniature.HERE / "miniature.json").read_text())["provenance"]
    assert provenance["base_revision"] == digest_of(*weight_files(MINIATURE))
    assert provenance["adapter_revision"] == digest_of(MINIATURE_ADAPTER / WEIGHTS_FILE)

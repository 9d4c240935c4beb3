"""The page and the README show what was measured, and say what falls short."""

import copy
import json
import re

import pytest

from benchmarks import miniature, page

MEASURED = [section for section in page.SECTIONS if section.result.exists()]


def test_the_page_is_written_from_the_records():
    assert page.PAGE.read_text() == page.text()


@pytest.mark.parametrize("section", [one for one in MEASURED if one.in_readme], ids=lambda section: section.script)
def test_the_readme_shows_the_figures_of_the_record(section: page.Section):
    assert section.table() in page.README.read_text()


@pytest.mark.parametrize("section", MEASURED, ids=lambda section: section.script)
def test_a_record_says_where_it_was_measured(section: page.Section):
    assert "Python" in section.where() and json.loads(section.result.read_text())["versions"]


def test_every_picture_of_the_page_is_there():
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", page.text())
    assert pictures == [f"{section.script}.png" for section in MEASURED if section.script in page.PLOTS]
    assert all((page.HERE / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_what_was_not_measured_is_said(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "HERE", tmp_path)
    assert page.text().count("**Not measured.**") == len(page.SECTIONS)


def test_a_claim_that_falls_short_is_called_so():
    result = json.loads((miniature.HERE / "miniature.json").read_text())
    for subject, verdict in ((0.9, False), (0.89, True)):
        short = copy.deepcopy(result)
        short["a_recognition"]["subject"] = subject
        [line] = [line for line in miniature.table(short).splitlines() if "subject recognised" in line]
        assert ("not reached" in line) == verdict


def test_the_record_is_of_the_bundled_weights():
    from impressionism.hub import digest_of
    from impressionism.names import MINIATURE, MINIATURE_ADAPTER, WEIGHTS_FILE
    from impressionism.pipeline import parts

    provenance = json.loads((miniature.HERE / "miniature.json").read_text())["provenance"]
    assert provenance["base_revision"] == digest_of(*parts(MINIATURE))
    assert provenance["adapter_revision"] == digest_of(MINIATURE_ADAPTER / WEIGHTS_FILE)

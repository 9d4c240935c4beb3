"""The README shows what the benchmark measured, and the benchmark reached what it claims."""

import copy
import json

from benchmarks import miniature

RESULT = json.loads((miniature.HERE / "miniature.json").read_text())


def test_the_readme_shows_the_figures_of_the_record():
    assert miniature.table(RESULT) in (miniature.HERE.parent / "README.md").read_text()


def test_a_claim_that_falls_short_is_called_so():
    for subject, verdict in ((0.9, False), (0.89, True)):
        short = copy.deepcopy(RESULT)
        short["a_recognition"]["subject"] = subject
        [line] = [line for line in miniature.table(short).splitlines() if "subject recognised" in line]
        assert ("not reached" in line) == verdict


def test_the_record_is_of_the_bundled_weights():
    from impressionism.hub import digest_of
    from impressionism.names import MINIATURE, MINIATURE_ADAPTER, WEIGHTS_FILE
    from impressionism.pipeline import parts

    assert RESULT["provenance"]["base_revision"] == digest_of(*parts(MINIATURE))
    assert RESULT["provenance"]["adapter_revision"] == digest_of(MINIATURE_ADAPTER / WEIGHTS_FILE)


def test_the_figures_are_written_between_the_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{miniature.MARK}\nold\n{miniature.MARK}\nafter\n")
    miniature.write_into_readme("new", readme)
    assert readme.read_text() == f"before\n{miniature.MARK}\nnew\n{miniature.MARK}\nafter\n"


def test_the_contact_sheet_names_its_strengths():
    from PIL import Image

    pictures = [Image.new("RGB", (32, 32), "navy")] * 30
    sheet = miniature.contact_sheet(pictures, [pictures[:6]] * 2)
    assert sheet.size == (6 * 32, 7 * 32)

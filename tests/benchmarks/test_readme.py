"""The pages' tables are those of results/, and the files that they point to are there."""
import re

import pytest

from benchmarks import readme


@pytest.mark.parametrize("page", readme.pages(), ids=lambda page: page.name)
def test_tables_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- results/") == text.count("<!-- end -->")
    assert readme.fill(text) == text
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_there_are_tables():
    assert "<!-- results/" in (readme.ROOT / "README.md").read_text(encoding="utf-8")


def test_a_changed_result_shows(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "speed.csv").write_text("what,rate,machine\nours,3,here\n")
    text = "before\n<!-- results/speed.csv -->\nold\n<!-- end -->\nafter"
    assert readme.fill(text, tmp_path) == (
        "before\n<!-- results/speed.csv -->\n| what | rate |\n| --- | --- |\n| ours | 3 |\n\nMeasured on: here.\n"
        "<!-- end -->\nafter")


def test_a_written_page_goes_in_as_it_is(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "paper_x.md").write_text("**Title**\n\n| row |\n")
    assert readme.fill("<!-- results/paper_x.md -->\n<!-- end -->", tmp_path) == (
        "<!-- results/paper_x.md -->\n**Title**\n\n| row |\n<!-- end -->")

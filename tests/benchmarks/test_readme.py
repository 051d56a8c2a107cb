"""README's tables are those of results/."""
from benchmarks import readme


def test_tables_are_current():
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- results/") == text.count("<!-- end -->") > 0
    assert readme.fill(text) == text


def test_a_changed_result_shows(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "speed.csv").write_text("what,rate,machine\nours,3,here\n")
    text = "before\n<!-- results/speed.csv -->\nold\n<!-- end -->\nafter"
    assert readme.fill(text, tmp_path) == (
        "before\n<!-- results/speed.csv -->\n| what | rate |\n| --- | --- |\n| ours | 3 |\n\nMeasured on: here.\n"
        "<!-- end -->\nafter")

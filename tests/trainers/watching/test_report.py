"""Pictures and the report: whole in one file, of any run, with nothing in it that is not text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from adaptery.trainers.run_directory import RunDirectory
from adaptery.trainers.watching.plots import averaged, save_curves
from adaptery.trainers.watching.report import html_report
from tests.trainers.watching.curves import made_up
from tests.trainers.watching.test_watchman import begin

EVIL = "<script>alert('&')</script>"
ROWS = made_up([3.0 - n / 20 for n in range(40)])


class Page(HTMLParser):
    """The tags of a page, with what they refer to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.sources += [value for key, value in attributes if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def filled(folder: Path, rows: list[dict[str, float]]) -> RunDirectory:
    run, _ = begin(folder)
    for row in rows:
        run.append_metrics(row)
    return run


def test_a_report_tells_the_whole_run(tmp_path: Path) -> None:
    run = filled(tmp_path, [*ROWS, {"step": 40, "eval.loss": 1.9}])
    run.append_event("best", 40, "Step 40 is the best so far.")
    run.append_sample(40, EVIL, f"{EVIL} blue", True)
    run.write_result({"metrics": {"loss": 1.9, "base.loss": 2.5}, "trainable_parameters": 540672})
    run.write_data({"training": {"rows": 5260, "longest row": 312}})
    page = Page(html_report(run))
    assert page.tags.count("img") == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    for told in (
        run.path.name,
        "540,672",
        "rows 5,260, longest row 312",
        "-0.6",
        "Step 40 is the best",
        f"{EVIL} blue",
    ):
        assert told in page.text
    assert re.search(r"data\.train\s+d\s+test\s", page.text)  # value and origin
    assert re.search(r"lora\.r\s+16\s+default\s", page.text)


@pytest.mark.parametrize("rows", [[], ROWS[:1], [*ROWS[:5], *ROWS[3:8]]])
def test_any_run_has_a_report(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    page = Page(html_report(filled(tmp_path, rows)))
    assert page.tags.count("img") == (3 if rows else 0)
    assert ("No figures were written yet." in page.text) == (not rows)


def test_curves_are_a_picture_of_one_row_too(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 40):
        save_curves(ROWS[:count], tmp_path / "curves.png")
        data = (tmp_path / "curves.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append(len(data))
    assert sizes[1] > sizes[0]


def test_an_average_stands_where_its_last_value_does() -> None:
    assert averaged([10, 20, 30], [1.0, 2.0, 6.0], 2) == ([20, 30], [1.5, 4.0])

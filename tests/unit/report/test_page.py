"""The page is one file that stands alone, says what is in the run, and says what is not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hwnas.errors import HwnasError
from hwnas.report.page import html, render
from hwnas.report.view import RunView

VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Reads a page strictly: every element that opens must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._table = ""
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [value or "" for key, value in attrs if key in LOADING]
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self._table = values.get("id") or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.stack:
            self.scripts[-1] += data
        elif "style" not in self.stack:
            self.words.append(data)
            if "td" in self.stack or "th" in self.stack:
                self.tables[self._table][-1][-1] += " " + data

    @property
    def text(self) -> str:
        """What a reader reads, white space folded."""
        return " ".join(" ".join(self.words).split())


def cells(page: Page, table: str) -> list[list[str]]:
    """The rows of a table below its head, white space folded."""
    return [[" ".join(cell.split()) for cell in row] for row in page.tables[table][1:]]


def test_a_finished_run_has_its_numbers_in_the_table(full: RunView) -> None:
    """The finalists' rows hold predicted and measured latency, verdict, accuracy, energy and exported speed-up."""
    page = Page(html(full))
    first, second, third = cells(page, "finalists")
    assert first[3].startswith("2.61 ms [2.58 ms, 2.69 ms] predicted")
    assert first[4] == "✓ kept"
    assert first[5] == "96.2 % ± 0.4 % 3 seeds, validation"
    assert first[7] == "unavailable"
    assert first[8] == "5.31 \N{MULTIPLICATION SIGN} [5.21, 5.44] int8"
    assert second[7] == "42.1 mJ ± 2.1 mJ above idle 31.1 mJ ± 2.2 mJ predicted 40.3 mJ [39.1 mJ, 41.5 mJ]"
    assert second[8] == "not exported yet"
    assert third[4] == "✗ broken"
    assert "2 of 3 finalists kept the limit when measured (latency at most 3 ms)." in page.text
    assert "Energy unavailable: this machine has no RAPL counters." in page.text
    assert "Energy measured by nvml-counter: the board's energy counter. It is that of one call with idle power in it" in page.text
    assert "While energy was measured: software power cap." in page.text


def test_engines_are_shown(full: RunView) -> None:
    """For which cards, in which precisions, how large, what was not tried, and what to type on the card."""
    page = Page(html(full))
    ((rank, flavor, precision, size, cards, latency, accuracy, folder),) = cells(page, "engines")
    assert (rank, flavor, size, cards, folder) == ("1", "rtx", "2.24 MiB", "sm86, sm89", "engine")
    assert precision == "mixed 31 int8, 12 fp16, before fusion"
    assert latency == "not measured: no card not loaded where it was built: there is no driver"
    assert accuracy == "96 % fp32: 96.4 %"
    assert "tensorrt_rtx --onnx=model.onnx tensorrt_rtx --loadEngine=1/model.plan" in page.text


def test_a_limit_that_could_not_be_checked(full: RunView) -> None:
    """Measured, and still nobody knows, as where energy has a limit and no reading: it is not said to be kept, broken, or missing."""
    open_ = replace(full, finalists=tuple(replace(finalist, limit_kept=None) for finalist in full.finalists))
    assert {row[4] for row in cells(Page(html(open_)), "finalists")} == {"not known"}
    waiting = replace(open_, finalists=tuple(replace(finalist, measured_latency_s=None) for finalist in open_.finalists))
    assert {row[4] for row in cells(Page(html(waiting)), "finalists")} == {"not measured yet"}


def test_a_run_with_engines_alone(full: RunView) -> None:
    """An engine is an export: nobody is told that there is none."""
    only = replace(full, finalists=tuple(replace(finalist, export=None) for finalist in full.finalists))
    assert "Nothing exported yet" not in Page(html(only)).text
    assert "exports" not in Page(html(only)).tables
    neither = replace(only, finalists=tuple(replace(finalist, engines=()) for finalist in only.finalists))
    assert "Nothing exported yet" in Page(html(neither)).text


def test_every_figure_says_whether_it_was_predicted_or_measured(full: RunView) -> None:
    """The head of each number column names its origin."""
    heads = [" ".join(cell.split()) for cell in Page(html(full)).tables["finalists"][0]]
    assert all(re.search("predicted|measured|measurement|counted", head) for head in heads[2:])


def test_proxies_are_held_against_the_bar(full: RunView) -> None:
    """Parameters and FLOPs are the bar; every other estimate says whether it beats both."""
    assert full.quality is not None
    verdicts = {row[0]: row[-1] for row in cells(Page(html(full)), "proxies")}
    assert verdicts["params"] == verdicts["flops"] == "the bar"
    for ranking in full.quality.rankings:
        if ranking.name not in ("params", "flops"):
            assert verdicts[ranking.name] == ("✓ beats the bar" if ranking.counts else "✗ does not")


def test_the_page_stands_alone(full: RunView) -> None:
    """No attribute loads anything, plotly is inlined exactly once, and the page forbids requests and uploads."""
    text = html(full)
    page = Page(text)
    assert page.loads == []
    assert len(page.scripts) == 2
    assert page.scripts[0].count("* plotly.js v") == 1
    assert "url(" not in text[: text.index("<script>")]
    assert "default-src 'none'" in text
    assert "showSendToCloud: false" in page.scripts[1]


def test_every_plot_has_its_place(full: RunView) -> None:
    """Each figure in the data has an element to be drawn into, and the data are JSON."""
    page = Page(html(full))
    match = re.search(r"const figures = (.*);\n", page.scripts[1])
    assert match
    drawn = {name for name, figure in json.loads(match[1]).items() if figure}
    assert drawn == {"front", "agreement", "spending", "kernels", "learning"}
    assert drawn <= set(page.ids)


def test_what_a_run_does_not_have_is_said_in_words(begun: RunView) -> None:
    """A run that has only begun has no empty table and no empty plot."""
    page = Page(html(begun))
    assert page.tables == {}
    assert page.ids == []
    for sentence in (
        "No finalists yet",
        "Nothing exported yet; run: hwnas export early -o DIR",
        "No network has been scored on two objectives yet.",
        "No prediction has been checked by a measurement yet.",
        "The kernels of the best network have not been timed yet.",
        "No cost has been recorded yet.",
        "No network has been trained yet",
        "This run used no latency predictor.",
        "The run recorded no replay command.",
    ):
        assert sentence in page.text


def test_names_are_text(full: RunView) -> None:
    """Whatever a user named cannot become markup or end the script."""
    evil = '</script><img src="http://evil.example/x" onerror="1">'
    finalist = replace(full.finalists[0], summary=evil, network=evil)
    trial = replace(full.trials[0], network=evil)
    page = Page(html(replace(full, run=evil, replay=evil, environment={evil: evil}, finalists=(finalist,), trials=(trial,))))
    assert page.loads == []
    assert evil in page.text
    assert len(page.scripts) == 2


def test_the_file_is_written_in_one_piece(full: RunView, tmp_path: Path) -> None:
    """Folders are made, an older page is replaced, and nothing else is left behind."""
    path = tmp_path / "new" / "report.html"
    path.parent.mkdir()
    path.write_text("old")
    assert render(full, path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_one_line(begun: RunView, tmp_path: Path) -> None:
    """A file where a folder should be, or a folder where the file should be, is named with a remedy."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "report.html", tmp_path / "folder"):
        with pytest.raises(HwnasError, match=r"cannot be written: .*; give another place with -o$"):
            render(begun, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]

"""runtimes.text: what comes from outside is seen as itself on a terminal, in Markdown, in HTML and in programs, and does nothing there."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from runtimes.text import LONGEST_NAME, class_name_problem, code, counted, fenced, html_text, literal, markdown, one_line, printable

PAGES = MarkdownIt("commonmark").enable("table").enable("strikethrough")
ANY = st.text(st.one_of(st.sampled_from("`*_[]()<>!#+-.=|~\\&;:/ \n\t\x1b\u202e\u200b$1a"), st.characters(exclude_categories=["Cs"])))
EVIL = ["</script><img src=x onerror=alert(1)>", "a\"b\\c{{7*7}}%s%n{0}?\\?/??/", "\u202egnp.exe",
        "zz\n\n## Run it\n\n```python\nimport os\n```\n",
        "esc\x1b[2Jbell\x07\x9b", "😀 é 中", "a\u2028b\ufeff", "`" * 7, "c\\", "${x}`y`", "-->",
        "'\"'\"\"\"", "# h", "1. x", "- [x] y", "&lt;b&#62;"]


class Seen(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def words(text: str) -> str:
    return " ".join(text.split())


@given(ANY)
def test_nothing_unseen_is_left_and_lines_are_kept_where_they_may_be(text: str) -> None:
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", printable(text)) is None
    assert printable(text).count("\n") == text.count("\n")
    assert "\n" not in one_line(text)
    assert one_line(one_line(text)) == one_line(text)


@pytest.mark.parametrize("text", ["mass", "Größe 3,5 cm", "肺炎", "потеря", "سرطان", "a_b-c (d) 100 %", "😀"])
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert printable(text) == one_line(text) == text


@settings(max_examples=100)
@given(ANY)
def test_markdown_shows_a_name_as_itself_in_a_list_a_paragraph_and_a_cell(text: str) -> None:
    expected = words(one_line(text))
    for before, tags in (("- ", {"ul", "li", "p"}), ("", {"p"}), ("Classes: a, ", {"p"})):
        page = Seen(PAGES.render(f"{before}{markdown(text.strip())}\n"))
        assert set(page.tags) <= tags, (text, page.tags)
        assert words(page.text).removeprefix("Classes: a,").strip() == words(one_line(text.strip()))
    table = Seen(PAGES.render(f"| a | b |\n|---|---|\n| {markdown(text)} | x |\n"))
    assert table.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert words(table.text) == words(f"a b {expected} x")


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "a-b", "1", "atelectasis", "class 2.5", "efficientnet-lite0 (ImageNet)"])
def test_ordinary_names_need_no_escape_in_markdown(name: str) -> None:
    assert markdown(name) == name


@settings(max_examples=100)
@given(ANY)
def test_code_spans_and_blocks_hold_any_text(text: str) -> None:
    span = Seen(PAGES.render(f"x {code(text)} y"))
    assert set(span.tags) <= {"p", "code"}
    assert words(span.text) == words(f"x {one_line(text)} y") or not one_line(text).strip()
    text = text.replace("\r", "").replace("\x00", "")
    block = Seen(PAGES.render(f"{fenced(text, 'python')}\n\n## after\n"))
    assert block.tags == ["pre", "code", "h2"]
    assert block.text.startswith(text.removesuffix("\n"))


@given(ANY)
def test_html_holds_any_text(text: str) -> None:
    page = Seen(f'<p title="{html_text(text)}">{html_text(text)}</p>')
    assert page.tags == ["p"]
    assert page.text == one_line(text)


@given(ANY)
def test_a_python_literal_is_the_text_on_one_line(text: str) -> None:
    written = literal(text, "python")
    assert ast.literal_eval(written) == text
    assert one_line(written) == written


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_node_reads_the_text_back_from_a_literal() -> None:
    program = f"process.stdout.write(JSON.stringify([{', '.join(literal(text, 'javascript') for text in EVIL)}]))"
    assert "</script" not in program
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True, encoding="utf-8")
    assert json.loads(done.stdout) == EVIL


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_compiler_reads_the_text_back_from_a_literal(tmp_path: Path) -> None:
    lines = "".join(f"puts({literal(text, 'cpp')}); putchar(1);" for text in EVIL)
    (tmp_path / "x.cpp").write_text(f"#include <cstdio>\nint main() {{ {lines} }}\n", encoding="utf-8")
    for standard in ("c++11", "c++17"):  # the older one still knows trigraphs
        subprocess.run(["g++", f"-std={standard}", "x.cpp", "-o", "x"], cwd=tmp_path, check=True, capture_output=True)
        found = subprocess.run([str(tmp_path / "x")], capture_output=True, check=True).stdout.decode().split("\n\1")
        assert found[:-1] == EVIL


@pytest.mark.parametrize("name", ["esc\x1b[2J", "a\nb", "a\r", "tab\t", "\u202egnp.exe", "a\u200bb", "\ufeffa", "a\u2066b", "a\u2028b",
                                  "nul\0", "c1\x9b", "soft\xadhyphen", "\udcff", "tag\U000e0041", "", "  ", "\u3164",
                                  "L" * (LONGEST_NAME + 1), "L" * 4000])
def test_a_class_name_that_hides_something_is_refused_in_one_printable_sentence(name: str) -> None:
    told = class_name_problem(name)
    assert "class" in told
    assert one_line(told) == told
    assert len(told) < 350


def test_ordinary_class_names_of_any_language_are_taken() -> None:
    for name in ("0", "normal", "BI-RADS 4A", "肺炎", "потеря массы", "سرطان", "Größe > 3", "a/b|c", "x" * LONGEST_NAME, "<b>", "=1",
                       "😀", "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)"):
        assert class_name_problem(name) == ""


def test_one_of_a_thing_is_told_without_an_s() -> None:
    assert [counted(count, "image") for count in (0, 1, 2, 1200)] == ["0 images", "1 image", "2 images", "1,200 images"]
    assert [counted(count, "class", "classes") for count in (1, 2)] == ["1 class", "2 classes"]

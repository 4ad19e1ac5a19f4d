"""Every page for people leads where it says: links and pictures exist, contents lists have their headings, commands have their flags."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from distill.settings.adapt import AdaptSettings
from distill.settings.continual import with_task_names
from distill.settings.distill import DistillSettings
from export.config import ExportSettings
from runtimes.bench.config import BenchSettings
from runtimes.cli import VerifySettings
from runtimes.commands.flags import parse
from runtimes.commands.settings import settings_of
from runtimes.info_cli import InfoSettings

COMMANDS: dict[str, Any] = {"rd-distill": DistillSettings, "rd-adapt": AdaptSettings, "rd-export": ExportSettings,
                            "rd-verify": VerifySettings, "rd-bench": BenchSettings, "rd-info": InfoSettings}
FOLDERS = ("benchmarks", "distill", "export", "runtimes", "tests")
ELSEWHERE = ("fixtures", "results")  # folders that commands wrote, kept as they were
FOR_USERS = ("README.md", "distill/README.md", "distill/TEACHERS.md", "export/README.md", "runtimes/README.md")
OF_EVERY_COMMAND = {"--help", "--help-all", "--version", "--tyro-print-completion"}


def pages() -> list[str]:
    """The pages that people wrote, by their path below the root; a folder that a command wrote here has a README of its own."""
    found = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    names = [path.relative_to(ROOT).as_posix() for path in found]
    return sorted(name for name in names if not set(Path(name).parts) & set(ELSEWHERE))


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """Fenced blocks: (language, content)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.M | re.S)


def prose(text: str) -> str:
    """A page without its fenced blocks and inline code, in which nothing is a link or a heading."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """Where a link may lead within a page: its headings as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: str, text: str) -> list[str]:
    """Relative links and pictures of a page that lead nowhere: no file, or no heading of that name."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = ROOT / page if not name else (ROOT / page).parent / name
        if not target.exists() or (anchor and anchor not in anchors(text if not name else target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


def typed(text: str) -> Iterator[str]:
    """Lines of fenced blocks that are a command of ours, as they are typed; not what it prints."""
    for _, content in blocks(text):
        for line in content.splitlines():
            if re.match(r"(\$ )?rd-[a-z]+ ", line):
                yield line.removeprefix("$ ")


def words_of(line: str) -> list[str]:
    """A command line as its words, without comment and without where its output goes."""
    words = shlex.split(line, comments=True)
    return words[:words.index(">")] if ">" in words else words


def unknown_flags(line: str) -> list[str]:
    """Flags of a command line that its command does not have."""
    command, *words = words_of(line)
    if command not in COMMANDS:
        return [command]
    known = {setting.flag for setting in settings_of(COMMANDS[command])} | OF_EVERY_COMMAND
    known |= {f"--no-{flag.removeprefix('--')}" for flag in known}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


def refused(line: str) -> str:
    """What the command says of its settings where it does not take them; "" where it does. No file is read: --config is left out."""
    command, *words = words_of(line)
    if "--config" in words:
        at = words.index("--config")
        del words[at:at + 2]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            parse(COMMANDS[command], words, command, spelled=with_task_names if command in ("rd-distill", "rd-adapt") else list)
        except (SystemExit, Exception) as error:
            return f"{error}: {said.getvalue().strip()[:300]}"
    return ""


def not_studies(text: str) -> list[str]:
    """Studies that a text names and that are not there, or that cannot be typed as they stand: they are modules, not scripts."""
    files = [name for name in re.findall(r"\bbenchmarks/[\w/]+\.py\b", text) if not (ROOT / name).is_file()]
    scripts = re.findall(r"\bpython\s+benchmarks/\S+", text)
    modules = [name for name in re.findall(r"\bpython\s+-m\s+(benchmarks\b[\w.]*\b)", text) if not is_command(name)]
    return files + scripts + modules


def is_command(module: str) -> bool:
    """Whether a module is there and does something when it is typed."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    return path.is_file() and "__name__ == \"__main__\"" in path.read_text(encoding="utf-8")


LINES = [(page, line) for page in pages() for line in typed(text_of(page))]


def test_the_pages_are_there() -> None:
    assert {"README.md", "distill/README.md", "distill/TEACHERS.md", "export/README.md", "runtimes/README.md", "tests/README.md",
            *(f"benchmarks/{name}.md" for name in ("README", "ACCURACY", "STUDIES", "DEPLOYMENT", "LATENCY", "SPEED", "ROBUSTNESS"))
            } <= set(pages())


@pytest.mark.parametrize("page", pages())
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    assert dead_links(page, text_of(page)) == []


@pytest.mark.parametrize("page", [page for page in pages() if page != "README.md"])
def test_every_page_is_found_from_the_readme(page: str) -> None:
    assert f"]({page})" in text_of("README.md")


@pytest.mark.parametrize("page", [page for page in pages() if re.search(r"^- \[.*\]\(#", text_of(page), flags=re.M)])
def test_a_contents_list_names_every_chapter_in_its_order(page: str) -> None:
    listed = re.findall(r"^ *- \[[^\]]*\]\(#([^)]+)\)$", text_of(page), flags=re.M)
    chapters = re.findall(r"^## (.+)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S), flags=re.M)
    named = [next(iter(anchors(f"# {chapter}"))) for chapter in chapters]
    assert [anchor for anchor in listed if anchor in named] == named


def test_the_check_of_links_can_fail() -> None:
    text = ("# One Page\n[a](#one-page) [b](#two) [c](tests/nothing.md) [d](README.md#install) [e](README.md#nothing)\n"
            "![f](no.png) `[g](no)`\n")
    assert dead_links("README.md", text) == ["#two", "tests/nothing.md", "README.md#nothing", "no.png"]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_has_the_flags_it_is_typed_with(page: str, line: str) -> None:
    assert unknown_flags(line) == [], page


@pytest.mark.parametrize("page", pages())
def test_flags_and_studies_named_in_a_sentence_are_there(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    assert [span for span in spans if re.match(r"rd-[a-z]+ -", span) and unknown_flags(span)] == []
    flags = {setting.flag for kind in COMMANDS.values() for setting in settings_of(kind)} | OF_EVERY_COMMAND
    alone = [span.split()[0] for span in spans if page in FOR_USERS and re.match(r"--[a-z]", span)]
    assert sorted({flag for flag in alone if flag not in flags}) == []
    assert not_studies(text_of(page)) == []


def test_settings_of_commands_are_taken_as_they_are_typed() -> None:
    whole = [(page, line) for page, line in LINES if "--tyro-" not in line]
    assert {line: said for _, line in whole if (said := refused(line))} == {}
    assert len(whole) >= 40
    assert {words_of(line)[0] for _, line in whole} == set(COMMANDS)


def test_the_check_of_commands_can_fail() -> None:
    assert unknown_flags("rd-distill --student resnet18 --students 3") == ["--students"]
    assert unknown_flags("rd-nothing x") == ["rd-nothing"]
    assert refused("rd-distill --method rdd")
    assert refused("rd-distill --method at"), "it compares places, and needs --views tied"


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "tests"])
def test_studies_named_in_code_are_there(folder: str) -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")}
    assert {name: missing for name, text in texts.items() if (missing := not_studies(text))} == {}


def test_the_check_of_studies_can_fail() -> None:
    assert not_studies("`python -m benchmarks.accuracy.methods methods` and benchmarks/accuracy/methods.py") == []
    assert not_studies("`python -m\nbenchmarks.accuracy.nothing`") == ["benchmarks.accuracy.nothing"]
    assert not_studies("`python -m benchmarks.accuracy.recipes`") == ["benchmarks.accuracy.recipes"]
    assert not_studies("`python -m benchmarks.accuracy`") == ["benchmarks.accuracy"]
    assert not_studies("`benchmarks/methods.py`") == ["benchmarks/methods.py"]
    assert not_studies("python benchmarks/house.py --root .") == ["python benchmarks/house.py"]


def test_programs_in_python_compile() -> None:
    programs = [(page, code) for page in pages() for language, code in blocks(text_of(page)) if language == "python"]
    for page, code in programs:
        compile(code, page, "exec")
    assert len(programs) >= 2

"""Text from outside - names, paths, commands - as it may be shown: on a terminal, in Markdown, in HTML, as a string of a program.

Owns: which letters nobody sees, the escapes of each place, the sentence on a name that cannot be one, a number with its noun.
Does not own: what is shown.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from typing import Literal

LONGEST_NAME = 100
# Controls, surrogates, line and paragraph separators, marks of direction, letters without width: what hides, or moves other text.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]")
# What means something in Markdown wherever it stands; an underscore does at the edge of a word, a leading mark at a line's start.
_MARKS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|(?<=:)//|(?<=www)\.", re.IGNORECASE)
_LEADING = re.compile(r"^(\d*)([#+=.)-])")


def printable(text: str) -> str:
    """Text for a terminal or a message, its lines kept: what nobody would see is written as its escape, such as \\x1b or \\u202e."""
    return _escaped(text, lambda letter: letter if letter == "\n" else _python(letter))


def is_utf8(text: str) -> bool:
    """Whether text can stand in a file; Python carries the bytes of a file's name that cannot as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str) -> str:
    """Text for one line of a terminal, a report or a list: as printable, and line breaks are escapes too."""
    return _escaped(text, _python)


def counted(count: int, noun: str, several: str = "") -> str:
    """A number with its noun: 1 image, 2 images; several: where an s does not make it."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def html_text(text: str) -> str:
    """Text for an HTML or SVG page, in an element or a quoted attribute."""
    return html.escape(one_line(text))


def shown(value: object) -> object:
    """A value as a template's `finalize` passes it on: plain text in one line, all else (numbers, markup of our own) as it is."""
    return one_line(value) if type(value) is str else value


def markdown(text: str) -> str:
    """Text for a paragraph, a list or a table's cell of Markdown, where it reads as itself and formats nothing."""
    plain = _MARKS.sub(lambda mark: f"\\{mark[0]}", one_line(text))
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", plain).replace("<", "&lt;").replace(">", "&gt;")
    return _LEADING.sub(r"\1\\\2", plain)


def code(text: str) -> str:
    """Text as a code span of Markdown: no backtick in it ends the span."""
    plain = one_line(text)
    runs = [len(run) for run in re.findall("`+", plain)]
    if not runs:
        return f"`{plain}`"
    mark = "`" * (max(runs) + 1)
    return f"{mark} {plain} {mark}"


def fenced(text: str, language: str = "") -> str:
    """Text as a code block of Markdown: no line of it ends the block."""
    mark = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", text))])
    body = text.removesuffix("\n")
    return f"{mark}{language}\n{body}\n{mark}"


def literal(text: str, language: Literal["python", "javascript", "cpp"]) -> str:
    """Text as a string literal of a program, in double quotes; in a page's script it cannot end the script."""
    unseen = {"python": _python, "javascript": _javascript, "cpp": _cpp}[language]
    plain = re.sub(r'["\\]', lambda letter: f"\\{letter[0]}", text)
    if language == "cpp":
        plain = plain.replace("??", "?\\?")  # a trigraph, to old compilers
    if language == "javascript":
        plain = plain.replace("<", "\\u003c")
    return f'"{_escaped(plain, unseen)}"'


def class_name_problem(name: str) -> str:
    """What makes the name of a class or finding unfit for a report, as a sentence: letters that hide, none, too many; "" for nothing."""
    unseen = _UNSEEN.search(name)
    shortened = name if len(name) <= LONGEST_NAME else f"{name[:40]}..."
    if unseen:
        return (f"class {shortened!a} holds {unseen[0]!a}, which is no letter that anyone sees (a control, a line break, a mark of "
                "direction, a letter without width); names go into reports and programs: rename the class")
    if not name.strip():
        return f"class {name!r} is blank; a report could not show it: rename the class"
    if len(name) > LONGEST_NAME:
        return (f"class {shortened!r} has {len(name):,} letters, expected {LONGEST_NAME} at most; shorten it, or name the column that "
                "holds the labels")
    return ""


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    return _UNSEEN.sub(lambda letter: escape(letter[0]), text)


def _python(letter: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(letter)
    number = ord(letter)
    return named or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")


def _javascript(letter: str) -> str:
    return json.dumps(letter)[1:-1]  # \uXXXX, beyond 16 bits as a pair


def _cpp(letter: str) -> str:
    """Octal escapes of the UTF-8 bytes: three digits end by themselves, hexadecimal ones would run on."""
    return "".join(f"\\{byte:03o}" for byte in letter.encode("utf-8", "replace"))

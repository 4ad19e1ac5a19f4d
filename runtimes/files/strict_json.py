"""JSON as its standard means it: nothing that two readers could read as two things.

Owns: `strict_json`. Does not own: files (folder.py), what a document must hold (schema.py).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

MAX_DEPTH = 64  # lists and objects within each other; ours have six
MAX_DIGITS = 40  # of a whole number; 64 bits have 20
LONG = re.compile(r"\d{41}")  # what may be longer: a hook for every number of a large document is slow


def strict_json(text: str, *, finite: bool = True) -> Any:
    """The value of a JSON text; ValueError where a key stands twice, a number is none or too long, a text no Unicode, or it is too deep.

    finite: False takes NaN and Infinity too, which are not JSON, but Python's own writer leaves them.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole if LONG.search(text) else None)
    except RecursionError:
        raise ValueError(f"lists and objects more than {MAX_DEPTH} deep") from None
    _check_depth(value)
    if finite:
        _check_finite(value)
    if "\\u" in text:  # half of a surrogate pair can be written as an escape, and then be neither printed nor kept
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character (a lone surrogate)") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return content


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    """ValueError for containers too deep, level by level: what walks the value later may recurse."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"lists and objects more than {MAX_DEPTH} deep")


def _children(value: Any) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_finite(value: Any, key: str = "") -> None:
    """ValueError for NaN and Infinity, also where a number with an exponent has become one, with the key it stands under."""
    if isinstance(value, float) and not math.isfinite(value):
        plain = key if key.isprintable() and len(key) <= 200 else repr(key[:200])  # as a sentence may hold it
        raise ValueError(f"{plain or 'the value'} is {value}, expected a finite number")
    if isinstance(value, dict):
        for name, item in value.items():
            _check_finite(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            if type(item) in (float, dict, list):
                _check_finite(item, f"{key}[{place}]")

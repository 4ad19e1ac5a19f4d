"""What a JSON document must hold, said as data: rules that answer in one sentence what is wrong, with the key and its value.

Owns: rules (`whole`, `number`, `text`, `list_of`, `object_of`, ...), `of_type` for the fields of a dataclass, `check`. Does not own:
any document's own rules, which stand beside whoever reads it; reading JSON (strict_json.py).
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any, Literal, Union, get_args, get_origin

from runtimes.errors import FAILED, UserError

Rule = Callable[[Any, str], str]  # (value, the key it stands under) to what is wrong with it, "" when nothing is

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def check(value: Any, rule: Rule, where: str, todo: str, exit_code: int = FAILED) -> None:
    """UserError where a value breaks its rule: the file it is from, key and value, what was expected, what to do."""
    problem = rule(value, "")
    if problem:
        raise UserError(f"{where}: {problem}; {todo}", exit_code)


def shown(value: Any) -> str:
    """A value as it may stand in a sentence: on one line, cut where it is long."""
    return _SHORT.repr(value)


def _unlike(value: Any, key: str, expected: str) -> str:
    return f"{key or 'the document'} is {shown(value)}, expected {expected}"


def whole(low: int, high: int) -> Rule:
    """A whole number in a range, both ends included; true and false are none."""
    def rule(value: Any, key: str) -> str:
        good = type(value) is int and low <= value <= high
        return "" if good else _unlike(value, key, "a whole number" + (f" from {low} to {high}" if abs(low) < 2**63 else ""))
    return rule


def number(low: float, high: float, *, above: bool = False) -> Rule:
    """A finite number in a range, both ends included; with `above`, not its low end."""
    def rule(value: Any, key: str) -> str:
        good = type(value) in (int, float) and low <= value <= high and math.isfinite(value) and not (above and value == low)
        return "" if good else _unlike(value, key, f"a number {'above' if above else 'from'} {low:g}{',' if above else ''} to {high:g}")
    return rule


def text(most: int = 4096, *, least: int = 0) -> Rule:
    """A text of some length."""
    def rule(value: Any, key: str) -> str:
        return "" if isinstance(value, str) and least <= len(value) <= most else _unlike(
            value, key, f"a text of {f'{least} to ' if least else ''}{most} letters at most" if most < 4096 else "a text")
    return rule


def one_of(*words: Any) -> Rule:
    """One of some values."""
    def rule(value: Any, key: str) -> str:
        good = any(type(value) is type(word) and value == word for word in words)
        return "" if good else _unlike(value, key, "one of " + ", ".join(map(str, words)) if len(words) > 1 else str(words[0]))
    return rule


def truth(value: Any, key: str) -> str:
    """True or false."""
    return "" if isinstance(value, bool) else _unlike(value, key, "true or false")


def anything(value: Any, key: str) -> str:
    """Whatever it is: nothing reads it."""
    return ""


def maybe(rule: Rule) -> Rule:
    """Nothing, or what the rule says."""
    return lambda value, key: "" if value is None else rule(value, key)


def list_of(rule: Rule, least: int = 0, most: int | None = None) -> Rule:
    """A list of values of one rule, of some length; a tuple counts as one."""
    def check_list(value: Any, key: str) -> str:
        if not isinstance(value, list | tuple) or not least <= len(value) <= (len(value) if most is None else most):
            count = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
            return _unlike(value, key, f"a list of {count} values")
        return next((rule(item, f"{key}[{place}]") for place, item in enumerate(value) if rule(item, "")), "")  # keys only where needed
    return check_list


def mapping_of(rule: Rule) -> Rule:
    """An object of any keys, its values of one rule."""
    def check_mapping(value: Any, key: str) -> str:
        if not isinstance(value, Mapping):
            return _unlike(value, key, "an object")
        return next((problem for name, item in value.items() if (problem := rule(item, _below(key, name)))), "")
    return check_mapping


def object_of(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None, *, others: bool = False) -> Rule:
    """An object with these keys; others: whether it may hold further ones, unread."""
    known = {**required, **(optional or {})}

    def check_object(value: Any, key: str) -> str:
        if not isinstance(value, Mapping):
            return _unlike(value, key, "an object")
        missing = [name for name in required if name not in value]
        if missing:
            return f"{_below(key, missing[0])} is missing"
        unknown = [] if others else [name for name in value if name not in known]
        if unknown:
            return f"{_below(key, unknown[0])} is not known"
        return next((problem for name, rule in known.items() if name in value and (problem := rule(value[name], _below(key, name)))), "")
    return check_object


def _below(key: str, name: Any) -> str:
    plain = name if isinstance(name, str) and name.isprintable() and len(name) <= 80 else shown(name)
    return f"{key}.{plain}" if key else plain


def of_type(hint: Any) -> Rule:
    """The rule of a type as a frozen dataclass of settings names it: plain types, Path, Literal, unions, tuples; JSON has lists."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rules = [of_type(member) for member in inner if member is not type(None)]
        either: Rule = rules[0] if len(rules) == 1 else _any_of(rules)
        return maybe(either) if type(None) in inner else either
    if origin is Literal:
        return one_of(*inner)
    if origin is tuple:
        return list_of(of_type(inner[0])) if inner[-1] is ... else _each(tuple(of_type(item) for item in inner))
    plain: dict[Any, Rule] = {bool: truth, int: whole(-(2**64), 2**64), float: number(-1.8e308, 1.8e308), str: text(65536),
                              Path: text(65536)}
    return plain.get(hint, anything)


def _any_of(rules: list[Rule]) -> Rule:
    return lambda value, key: "" if any(not rule(value, key) for rule in rules) else rules[0](value, key)


def _each(rules: tuple[Rule, ...]) -> Rule:
    def check_each(value: Any, key: str) -> str:
        if not isinstance(value, list | tuple) or len(value) != len(rules):
            return _unlike(value, key, f"a list of {len(rules)} values")
        return next((problem for place, (item, rule) in enumerate(zip(value, rules, strict=True))
                     if (problem := rule(item, f"{key}[{place}]"))), "")
    return check_each

"""Values of a JSON file that may come from anywhere: whether they are what they should be, and how an error shows them.

Owns: is_count, is_number, shown. Does not own: what a file should hold (architectures.py, encoder_folder.py, peft_config.py).
"""

from __future__ import annotations

from typing import Any


def is_count(value: Any, least: int, most: int) -> bool:
    """Whether a value of a JSON file is a whole number within limits; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any, least: float = -1e30, most: float = 1e30) -> bool:
    """Whether a value of a JSON file is a number within limits; NaN and the infinities lie in none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def shown(value: Any, most: int = 80) -> str:
    """A value of a foreign file as an error may print it: on one line, without control characters, not too long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints
        text = type(value).__name__
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= most else f"{text[:most]}..."

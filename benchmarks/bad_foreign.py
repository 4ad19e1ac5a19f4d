"""Inputs that tempt to a wrong answer, foreign code and settings: teachers, student configs, PEFT folders.

Owns: FOREIGN_CASES. Does not own: the other cases (bad_list.py), judging (bad_inputs.py).
"""

from __future__ import annotations

from bad_cases import Case

FOREIGN_CASES: tuple[Case, ...] = ()

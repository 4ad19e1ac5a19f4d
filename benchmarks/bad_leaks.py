"""Inputs that tempt to a wrong answer, what must not leave the house, and figures that look right.

Owns: LEAK_CASES. Does not own: the other cases (bad_list.py), judging (bad_inputs.py).
"""

from __future__ import annotations

from bad_cases import Case

LEAK_CASES: tuple[Case, ...] = ()

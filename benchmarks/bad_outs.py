"""Inputs that tempt to a wrong answer, outputs that would cost somebody their files, two runs at once, names and streams that break.

Owns: OUT_CASES. Does not own: the other cases (bad_list.py), judging (bad_inputs.py).
"""

from __future__ import annotations

from bad_cases import Case

OUT_CASES: tuple[Case, ...] = ()

"""Inputs that tempt to a wrong answer, CSV files, archives and volumes that are misread.

Owns: TABLE_CASES. Does not own: the other cases (bad_list.py), judging (bad_inputs.py).
"""

from __future__ import annotations

from bad_cases import Case

TABLE_CASES: tuple[Case, ...] = ()

"""Inputs that tempt to a wrong answer, folders and files of images that are misread.

Owns: PICTURE_CASES. Does not own: the other cases (bad_list.py), judging (bad_inputs.py).
"""

from __future__ import annotations

from bad_cases import Case

PICTURE_CASES: tuple[Case, ...] = ()

"""Inputs that tempt to a wrong answer, what a device or a table must not believe: artifacts, graphs, banks, latency tables, YAML.

Owns: DEVICE_CASES. Does not own: the other cases (bad_list.py), judging (bad_inputs.py).
"""

from __future__ import annotations

from bad_cases import Case

DEVICE_CASES: tuple[Case, ...] = ()

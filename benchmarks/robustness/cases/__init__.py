"""Wrong inputs, hand-written: what lies in a folder, what is typed there, what must be answered.

Owns: every case and how its files are made. Does not own: typing and judging them (robustness/inputs.py).
"""

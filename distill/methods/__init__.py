"""How a student is taught: one file a method, one row a method in settings/method_table.py.

Owns: what a method builds beside the student and what its loss adds up. Does not own: shared formulas (losses.py), the loop (fit.py).
To add a method: a file with `build` and `losses`, a row in settings/method_table.py, a test of its formula, a line in README.
"""

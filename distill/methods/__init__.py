"""How a student is taught: one file a method, one row a method in settings/method_table.py.

Owns: what a method builds beside the student and what its loss adds up. Does not own: shared formulas (evaluation/losses.py), the loop
(training/fit.py). To add one: the last paragraph of distill/README.md.
"""

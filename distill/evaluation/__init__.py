"""Figures: losses and metrics as formulas, calibration, and what is said of predictions.

Owns: pure functions of labels and scores. Does not own: running a network (training), pages (report).
"""

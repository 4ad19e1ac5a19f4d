"""What pruning, targets and precisions leave of a student: sizes, decisions on test images, the time of an export.

Owns: the students that are exported, their rows and tables. Does not own: exporting (export), whether a fault is found (robustness).
"""

"""Trials on held-out training images: which method, which student.

Owns: folds, candidates, the choice. Does not own: a training (training).
"""

"""How good students and teachers are: studies on test images, and those on held-out images that chose defaults.

Owns: which runs make a study, their rows and tables, recipes. Does not own: training (distill), files and machines (record.py).
"""

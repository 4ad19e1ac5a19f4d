"""How fast and how large the tools themselves are: a training step, the bank, a start, memory.

Owns: ratios taken in one run. Does not own: the latency of a student (latency).
"""

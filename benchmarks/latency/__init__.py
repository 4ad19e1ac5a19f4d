"""Milliseconds on this machine, and whether rd-bench can be believed.

Owns: rd-bench beside other ways to time, the tables of LATENCY.md. Does not own: measuring itself (runtimes/bench, runtimes/measure).
"""

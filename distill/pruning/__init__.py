"""A student brought within its budget of parameters, operations or latency.

Owns: the search, the cuts, the rounds. Does not own: which student (selection).
"""

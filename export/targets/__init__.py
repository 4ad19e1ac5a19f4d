"""The targets of rd-export: one file and one row each.

Owns: what a target makes of a graph, how fast it is, programs that run it. Does not own: opening one (runtimes/backends).
"""

"""rd-adapt: a teacher adapted to a task by adapters, folded where it folds exactly.

Owns: the command, what can be adapted, folding what was trained, heads of several tasks. Does not own: adapters.
"""

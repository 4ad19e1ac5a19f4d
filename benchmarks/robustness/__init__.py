"""What happens when things go wrong: wrong inputs, faults in graphs, spoilt artifacts, damaged models, kills, no network.

Owns: the faults, whether each is answered. Does not own: the cases of wrong inputs (cases/), the checks (export, runtimes).
"""

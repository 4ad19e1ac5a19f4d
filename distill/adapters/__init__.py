"""Low-rank experts beside the layers of a frozen network.

Owns: what an adapter is, where it goes, how it starts and folds. Does not own: the network, PEFT folders (teacher), rd-adapt (adaptation).
"""

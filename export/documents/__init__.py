"""What lies beside a model: its README, its bill of materials, its signature.

Owns: their words. Does not own: facts (facts.py), programs that run an artifact (targets).
"""

"""An exported folder, read strictly before any runtime sees its model.

Owns: what it holds and claims, who signed it, the table of targets. Does not own: what its model answers (session.py).
"""

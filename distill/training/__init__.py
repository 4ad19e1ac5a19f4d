"""The training loop, and a student trained by a recipe.

Owns: batches, the loop, its state on disk, answers of what was trained. Does not own: losses (methods).
"""

"""Proof that an artifact takes the decisions of the PyTorch model.

Owns: answers of both sides, the verdict and its page, golden vectors. Does not own: limits of lower precisions (precision/gate.py).
"""

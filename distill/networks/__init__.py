"""Networks from timm, torchvision, transformers and of the user's own, with one head and one way on disk.

Owns: building, cutting and keeping them. Does not own: adapters, training.
"""

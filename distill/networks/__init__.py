"""Networks from timm, torchvision and transformers, with one head and one way on disk.

Owns: building, cutting and keeping them. Does not own: adapters, training.
"""

"""Synthetic head CT: images, findings and volumes drawn by our own code.

Owns: drawing and its ground truth. Does not own: any real image.
"""

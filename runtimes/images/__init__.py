"""From a file to the pixels that a network sees, the same in training and on a device.

Owns: decoding, volumes, ImageSpec. Does not own: labels and splits (distill/data).
"""

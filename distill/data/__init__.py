"""The images and their labels: every form that people bring, checked, split, and ready for training.

Owns: ImageSet made from folders, tables and archives, views, the store of pixels. Does not own: drawn images (phantom), decoding
(runtimes/images/decode.py).
"""

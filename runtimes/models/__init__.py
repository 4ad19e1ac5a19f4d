"""Model files read without any runtime: ONNX and .ort as graphs.

Owns: their tensors, what they say of themselves, what they cost, which operators they hold. Does not own: opening them (backends).
"""

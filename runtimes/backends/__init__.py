"""One file a runtime, and the machine and threads it runs on.

Owns: ONNX Runtime, OpenVINO, TensorRT behind a few verbs each. Does not own: which of them opens a model (artifact/targets.py).
"""

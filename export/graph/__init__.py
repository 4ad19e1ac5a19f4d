"""The network as it is deployed, and its fp32 graph as the bytes of one ONNX file.

Owns: preprocessing and softmax in the graph, the exporter, what a file may hold. Does not own: lower precisions (precision).
"""

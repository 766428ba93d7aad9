"""ONNX graphs, run by ONNX Runtime.

The package ``onnxruntime`` is optional, and imported only where a graph is loaded.
"""

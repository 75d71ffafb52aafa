"""Prune ONNX models: rank channels, remove them for real, prove the cut equal to the mask."""

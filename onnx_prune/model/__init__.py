"""The ONNX record: read, walked, checked and written."""

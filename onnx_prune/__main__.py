"""`python -m onnx_prune` is `onnx-prune`."""

from onnx_prune.cli import main

if __name__ == "__main__":
    main()

"""The program: `onnx-prune`, which `python -m onnx_prune` is too.

Signals are minded before the rest is imported, which takes longer than some runs.
"""

import signal

from onnx_prune.signals import terminable


def main() -> None:
    """Run the command line; Ctrl-C ends it silently from here until Python itself has come to its end."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # which would tell where it was
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with terminable():
        from onnx_prune.cli import main as command

        command()


if __name__ == "__main__":
    main()

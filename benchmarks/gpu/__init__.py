"""What a GPU does with PAM's released shapes, in one command: `python -m benchmarks.gpu` (see `__main__`)."""

"""How good a checkpoint is on generated pictures and clips it never saw: `python -m tiny.evaluation`."""

"""State, step, evaluation, checkpoints and records of a run. Takes leaf configs; the loop that uses it is run.py."""

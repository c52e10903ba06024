"""Models of workdirs on the tasks of EleutherAI's lm-eval harness: its view of a model, and the command line."""

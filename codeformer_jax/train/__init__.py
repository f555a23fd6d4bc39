"""The training loop, its start, the held-out evaluation, the monitor and the plan of a run."""

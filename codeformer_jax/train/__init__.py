"""The training loop and what it needs: mesh, checkpoints, metrics, a place to start from."""

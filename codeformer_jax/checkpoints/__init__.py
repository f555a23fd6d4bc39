"""Checkpoints: saving, loading, digests, and what a run starts from."""

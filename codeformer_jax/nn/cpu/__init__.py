"""Convolutions and dense layers for CPUs, where the compiler's own are slow."""

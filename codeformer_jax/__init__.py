"""VQ-VAE, VQGAN and CodeFormer blind face restoration in JAX and Flax."""

__version__ = "0.1.0"

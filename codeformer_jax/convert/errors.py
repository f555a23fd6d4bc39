"""Errors of conversion; each message names the file or network and what to do."""


class ConversionError(ValueError):
    """Weights, names or hyperparameters that cannot be converted."""


class PthError(ConversionError):
    """A file that is not a readable PyTorch checkpoint."""


class UnsafePickleError(PthError):
    """A PyTorch checkpoint whose pickle asks for more than tensors."""


class ModelFileError(ConversionError):
    """A file that is not a readable model file of this package."""


class ChecksumError(ConversionError):
    """A published file whose SHA-256 is not the published one."""

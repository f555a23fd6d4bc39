"""The one error class of this folder."""


class RestoreError(ValueError):
    """Something given by the caller cannot be restored, or not with this network, or not there."""

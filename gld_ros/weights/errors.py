"""Errors that describe a problem with weight files; all of them are ValueErrors."""


class WeightsError(ValueError):
    """A weight file, bundle or checkpoint is not what its reader needs; the text names it."""


class BundleError(WeightsError):
    """A bundle folder is missing, incomplete, damaged or of another format."""


class CoverageError(WeightsError):
    """The tensors of a file and the parameters of a module do not match one to one."""


class UnsafeCheckpointError(WeightsError):
    """A pickle asks for more than plain tensors and containers, so it is not opened."""

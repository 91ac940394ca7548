"""The errors under the module's name in ipyparallel. See `furlong.errors`."""

from furlong import errors as _errors
from furlong.errors import *  # noqa: F403

IPythonError = _errors.IPythonError
KernelError = _errors.KernelError
TaskRejectError = _errors.TaskRejectError
DependencyTimeout = _errors.DependencyTimeout
TimeoutError = _errors.TimeoutError  # noqa: A001

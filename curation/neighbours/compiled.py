"""Loops that numpy has no words for, compiled by numba at their first call."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of arrays; other threads run meanwhile, and the next process finds the machine code.

    Numba keeps the code beside the module, or in the user's cache folder where the package cannot be written. Where
    neither can, as in some containers, every process compiles for itself, which takes about a second a function.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True)(function)

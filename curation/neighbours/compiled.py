"""Loops that numpy has no words for, compiled by numba at their first call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba


def compiled(function: Callable[..., Any] | None = None, *, may_reorder_sums: bool = False) -> Callable[..., Any]:
    """Compile a function of arrays; other threads run meanwhile, and the next process finds the machine code.

    Numba keeps the code beside the module, or in the user's cache folder where the package cannot be written. Where
    neither can, as in some containers, every process compiles for itself, which takes about a second a function.

    Args:
        function: with numpy arrays and numbers as arguments.
        may_reorder_sums: sums of floats may be added in any order, several at once: for what bounds a result, never
            for the result itself.
    """
    if function is None:
        return partial(compiled, may_reorder_sums=may_reorder_sums)
    settings: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc"} if may_reorder_sums else False}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(**settings)(function)

"""How a formula asks for sums over processes, without knowing of any."""

from typing import Literal, Protocol

from torch import Tensor


class AllReduce(Protocol):
    """The elementwise sum or maximum over all processes, the same on each; may overwrite its argument."""

    def __call__(self, values: Tensor, operation: Literal["sum", "max"]) -> Tensor:
        """Reduce."""


def alone(values: Tensor, operation: Literal["sum", "max"]) -> Tensor:  # noqa: ARG001
    """One process by itself."""
    return values

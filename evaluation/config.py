"""The configuration of an evaluation."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from conf import Section


class Protocol(Section):
    """How a number is made: two results compare only when the digests of their protocols are equal."""

    k: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = Field(default=[10, 20, 100, 200])
    temperature: Annotated[float, Field(gt=0)] = 0.07
    resize: Annotated[int, Field(ge=1)] = 256
    crop: Annotated[int, Field(ge=1)] = 224
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0


class Runtime(Section):
    """Where and how fast it runs."""

    device: Literal["cpu", "cuda"] = "cpu"
    batch_size: Annotated[int, Field(ge=1)] = 64


class Evaluation(Section):
    """A whole evaluation recipe."""

    model: str
    data: str
    output: str
    protocol: Protocol = Protocol()
    runtime: Runtime = Runtime()


def usable_ks(ks: Sequence[int], num_train: int) -> list[int]:
    """The values of k, ascending, that a train split of this size can answer.

    Raises:
        ValueError: none can.
    """
    usable = sorted({k for k in ks if k <= num_train})
    if not usable:
        raise ValueError(
            f"protocol.k = {list(ks)}: the train split has only {num_train} images; pass protocol.k=[{num_train}]"
        )
    return usable

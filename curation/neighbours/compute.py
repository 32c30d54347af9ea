"""Where and in which precision large matrix products are computed, and work spread over threads in a fixed order."""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4  # results that wait for their turn, a thread


def device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def product_dtype(device_type: str) -> torch.dtype:
    """bfloat16 where a matrix product of it is clearly faster than one of float32, as a short trial says.

    Nothing may depend on the answer but the time.
    """
    if device_type == "cuda":
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        operand = torch.ones(512, 512, dtype=dtype)
        trials = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(operand, operand)
            trials.append(time.perf_counter() - start)
        seconds[dtype] = min(trials)
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.7 * seconds[torch.float32] else torch.float32


def whole_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[n, m] int32 inner products of rows of int8, as fast as this machine has them.

    Args:
        a: [n, d] int8 on the CPU.
        b: [m, d] int8; d is below 2**10 times what int32 leaves room for, so no sum overflows.
    """
    if _multiplies_bytes():
        return torch._int_mm(a, b.T)
    return (a.double() @ b.double().T).int()


@functools.cache
def _multiplies_bytes() -> bool:
    """Whether torch's product of bytes is right where instructions for bytes of one sign would saturate, and fast."""
    operand = torch.tensor([-128, 127], dtype=torch.int8)[torch.arange(512 * 512).reshape(512, 512) % 3 % 2]
    exact = operand.double()
    start = time.perf_counter()
    expected = exact @ exact.T
    slow = time.perf_counter() - start
    try:
        found = torch._int_mm(operand, operand.T)
        start = time.perf_counter()
        found = torch._int_mm(operand, operand.T)
        fast = time.perf_counter() - start
    except (RuntimeError, AttributeError):
        return False
    return bool((found.double() == expected).all()) and fast < slow


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int | None = None
) -> Iterator[Result]:
    """Map on threads, a bounded number of items ahead, results in the order of the items.

    Every thread computes its matrix products alone: many small ones side by side are faster than each spread over all
    cores, and what surrounds them runs in parallel too.

    Args:
        function: of one item; numpy, torch and compiled code let other threads run.
        items: taken as they are needed.
        num_threads: None: as many as torch uses.
    """
    before = torch.get_num_threads()
    num_threads = num_threads or before
    if num_threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)  # the setting of one thread becomes that of threads to come

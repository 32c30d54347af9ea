"""What the machine can do at most, of which MFU is a share, and how much memory was taken of it."""

import functools
import resource
import sys
import time
from typing import NamedTuple

import torch

_SIZE, _ROUNDS = 1024, 5


class Peak(NamedTuple):
    """FLOP/s of one device, and where the number is from."""

    flops_per_s: float
    words: str


# Dense tensor-core rates from NVIDIA's and AMD's data sheets in TFLOP/s: bf16 (fp16 where there is none), TF32, fp32.
# A name that holds another comes first.
_DATA_SHEETS: dict[str, tuple[float, float, float]] = {
    "B200": (2250, 1125, 75),
    "GH200": (989.4, 494.7, 66.9),
    "H200 NVL": (835.5, 417.7, 60),
    "H200": (989.4, 494.7, 66.9),
    "H100 PCIe": (756, 378, 51.2),
    "H100 NVL": (835.5, 417.7, 60),
    "H100": (989.4, 494.7, 66.9),
    "H800": (989.4, 494.7, 66.9),
    "A100": (312, 156, 19.5),
    "A800": (312, 156, 19.5),
    "A10G": (70, 35, 35),
    "A10": (125, 62.5, 31.2),
    "A40": (149.7, 74.8, 37.4),
    "RTX A6000": (154.8, 77.4, 38.7),
    "V100": (125, 15.7, 15.7),
    "L40S": (362, 183, 91.6),
    "L40": (181, 90.5, 90.5),
    "L4": (121, 60, 30.3),
    "T4": (65, 8.1, 8.1),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 4080": (97.5, 48.7, 48.7),
    "RTX 3090": (71, 35.6, 35.6),
    "MI300X": (1307.4, 653.7, 163.4),
}


def peak(device: torch.device, precision: str, tflops: float | None) -> Peak:
    """What one device can do at most.

    Args:
        device: where a run computes.
        precision: ``bf16`` or ``fp32``; the latter is TF32 where torch is allowed to use that.
        tflops: ``runtime.peak_tflops``; None: look it up, or measure it where the device is not in the table.
    """
    if tflops is not None:
        return Peak(tflops * 1e12, f"{tflops:g} TFLOP/s by runtime.peak_tflops")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, rates in _DATA_SHEETS.items():
            if known in name:
                tf32 = torch.get_float32_matmul_precision() != "highest"
                column, kind = (0, "bf16") if precision == "bf16" else (1, "TF32") if tf32 else (2, "fp32")
                return Peak(
                    rates[column] * 1e12, f"{rates[column]:g} TFLOP/s of a {known} in {kind}, by its data sheet"
                )
    rate = measured(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    return Peak(rate, f"{rate / 1e12:.3g} TFLOP/s of a matrix product measured here in {precision}")


@functools.cache
def measured(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few square matrix products; takes well under a second and no random numbers.

    On a CPU the time is that of the processors, so that others who use them do not make the peak look low.
    """
    on_cpu = device.type == "cpu"
    x = torch.ones(_SIZE, _SIZE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.process_time() if on_cpu else time.perf_counter()
        x @ x
        if on_cpu:
            taken = (time.process_time() - start) / torch.get_num_threads()
        else:
            torch.accelerator.synchronize(device)
            taken = time.perf_counter() - start
        best = min(best, taken)
    return 2 * _SIZE**3 / best


def peak_memory_bytes() -> int:
    """Of the device where this process has allocated on one, else of this process."""
    if torch.cuda.is_available() and (used := torch.cuda.max_memory_allocated()):
        return used
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

import pytest
import torch

from training.watch import machine
from training.watch.machine import peak


def test_what_is_told_is_believed():
    assert peak(torch.device("cpu"), "bf16", 1.5) == (1.5e12, "1.5 TFLOP/s by runtime.peak_tflops")


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H200 NVL", "bf16", 835.5),
        ("NVIDIA H100 PCIe", "fp32", 51.2),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A10G", "bf16", 70),
        ("Tesla V100-SXM2-32GB", "fp32", 15.7),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ],
)
def test_devices_of_the_table_are_known_by_their_names(monkeypatch, name, precision, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak(torch.device("cuda:0"), precision, None).flops_per_s == pytest.approx(tflops * 1e12)


def test_no_name_hides_behind_a_shorter_one():
    names = list(machine._DATA_SHEETS)
    assert not [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a in b]


def test_another_device_is_measured_once_and_without_random_numbers(monkeypatch):
    monkeypatch.setattr(machine, "_SIZE", 64)
    machine.measured.cache_clear()
    state = torch.get_rng_state()
    found = peak(torch.device("cpu"), "fp32", None)
    assert found == peak(torch.device("cpu"), "fp32", None)
    machine.measured.cache_clear()
    assert torch.equal(torch.get_rng_state(), state)
    assert found.flops_per_s > 1e7
    assert found.words.endswith("of a matrix product measured here in fp32")


def test_the_peak_of_memory_is_at_least_what_is_held():
    before = machine.peak_memory_bytes()
    held = torch.ones(60_000_000)
    assert machine.peak_memory_bytes() >= max(before, held.nbytes)

"""Attention kernels, compiled blocks, and a step that waits for nothing: what a GPU needs, as far as a CPU can tell."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from conf import load
from tests.benchmarks.train_step import random_batch
from tests.training.small import settings
from training.config import Recipe, Runtime, TrainConfig
from training.kernels import PLAIN, Kernels, chosen
from training.models import fused
from training.models.attention import attend
from training.models.fused import FUSED, by_group, choose, varlen
from training.schedules import at
from training.train import Trainer

CPU, GROUPS = torch.device("cpu"), ((2, 5), (3, 3))


def recipe(**sections) -> Recipe:
    return Recipe.model_validate(settings("release", "run").recipe.model_dump() | sections)


def test_torchs_attention_by_group_is_ours():
    qkv = torch.randn(19, 3 * 64, requires_grad=True)
    found, expected = by_group(qkv, GROUPS, 2), attend(qkv, GROUPS, 2)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(x.square().sum(), qkv)[0] for x in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def as_documented(q, k, v, starts, also_starts, longest, also_longest):
    """What ``varlen_attn`` is said to do, sequence by sequence."""
    assert q.shape[-1] == 32
    assert torch.equal(starts, also_starts)
    assert starts.dtype == torch.int32
    assert longest == also_longest == int(starts.diff().max())
    parts = [[x[a:b].transpose(0, 1) for x in (q, k, v)] for a, b in starts.unfold(0, 2, 1).tolist()]
    return torch.cat([functional.scaled_dot_product_attention(*part).transpose(0, 1) for part in parts])


def test_the_varlen_kernel_is_told_of_every_crop(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", as_documented)
    qkv = torch.randn(19, 3 * 64)
    torch.testing.assert_close(varlen(qkv, GROUPS, 2), attend(qkv, GROUPS, 2))


def test_the_varlen_kernel_takes_our_tensors_as_far_as_shapes_go():
    with FakeTensorMode():
        qkv = torch.empty(19, 3 * 128, dtype=torch.bfloat16, device="cuda")
        out = varlen(qkv, GROUPS, 2)
        assert (out.shape, out.dtype) == ((19, 128), torch.bfloat16)
    fused._kept_bounds.cache_clear()  # of tensors that are none


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FUSED)
def test_every_kernel_that_is_there_agrees_on_a_gpu(name):
    device = torch.device("cuda")
    if reason := fused.why_not(FUSED[name], device, torch.bfloat16):
        pytest.skip(reason)
    qkv = torch.randn(19, 3 * 128, device=device, dtype=torch.bfloat16)
    torch.testing.assert_close(FUSED[name](qkv, GROUPS, 2), by_group(qkv, GROUPS, 2), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["varlen", "xformers"])
def test_a_kernel_that_is_not_there_is_refused_at_the_start(name):
    runtime = Runtime(attention=name, device="cpu")
    with pytest.raises(ValueError, match=f"runtime.attention = '{name}' does not work here: it has no kernel for cpu"):
        chosen(runtime, CPU, "bf16")


def test_a_kernel_that_fails_or_is_off_is_told_with_the_reason(monkeypatch):
    def fails(*_):
        raise RuntimeError("no kernel image\nand so on")

    monkeypatch.setitem(FUSED, "varlen", fails)
    monkeypatch.setitem(FUSED, "xformers", lambda qkv, groups, heads: 2 * by_group(qkv, groups, heads))
    monkeypatch.setattr(fused, "KERNELS_FOR", "cpu")
    with pytest.raises(ValueError, match=r"no kernel image; use runtime\.attention=auto"):
        choose("varlen", CPU, torch.float32)
    with pytest.raises(ValueError, match=r"it is off by .* from torch's attention"):
        choose("xformers", CPU, torch.float32)
    assert choose("auto", CPU, torch.float32) is by_group


def test_what_is_chosen_by_itself():
    assert chosen(Runtime(), CPU, "bf16") == PLAIN
    assert chosen(Runtime(compile=True, attention="sdpa"), CPU, "fp32") == Kernels(by_group, compiled=True)
    settings = load(TrainConfig, "conf/training/demo.yaml", ["runtime.compile=false", "runtime.attention=sdpa"])
    assert (settings.runtime.compile, settings.runtime.attention) == (False, "sdpa")


def losses(made: Recipe, kernels: Kernels, updates: int = 3) -> list[list[float]]:
    trainer, found = Trainer(made, kernels=kernels), []
    for step in range(updates):
        scalars = trainer.update(random_batch(made), at(made, step))
        found.append([float(value) for value in scalars.values()])
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_blocks_are_seen_whole_by_the_compiler_and_give_the_same_losses(monkeypatch, precision, ffn):
    """Captured forward and backward, without the code that is generated from it (that takes a minute)."""
    graphs = []

    def captured(function, dynamic):
        return whole(function, dynamic=dynamic, fullgraph=True, backend=counted)

    def counted(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    whole = torch.compile
    torch._dynamo.reset()
    model = {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "drop_path": 0.3, "ffn": ffn, "layer_scale": 1.0}
    made = recipe(precision=precision, model=model)
    expected = losses(made, PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", captured)
        found = losses(made, Kernels(compiled=True))
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3 if precision == "fp32" else 0.03)
    assert len(graphs) == 2  # the student's and the teacher's, for all blocks and steps


@pytest.mark.slow
def test_compiled_code_gives_the_same_losses():
    assert losses(recipe(), Kernels(compiled=True)) == [pytest.approx(one, rel=1e-3) for one in losses(recipe(), PLAIN)]


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: values and shapes it must know, and constants it brings."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "lift_fresh", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_", "_unsafe_index") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        if masks or name.startswith(self.WAITS):
            raise AssertionError(f"{func} in the step")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("centering", ["sinkhorn", "softmax"])
def test_a_step_waits_for_nothing(centering):
    head = {"prototypes": 32, "hidden": 32, "bottleneck": 16}
    made = recipe(losses={"centering": centering}, heads={"dino": head, "ibot": head}, precision="bf16")
    trainer, batch = Trainer(made), random_batch(made)
    trainer.update(batch, at(made, 0))  # what is brought once
    with NoWaiting():
        trainer.update(batch, at(made, 1))


@pytest.mark.parametrize(
    "wait", [lambda x: float(x[0]), lambda x: x[x > 0], lambda x: bool(x.any()), lambda x: x + torch.tensor([1.0])]
)
def test_a_wait_is_seen(wait):
    with NoWaiting(), pytest.raises(AssertionError, match="in the step"):
        wait(torch.ones(3))


def test_a_step_that_computes_again_is_the_same_step_to_the_last_bit():
    """With stochastic depth, whose draws must be those of the first time, and rows that blocks write into."""
    made = recipe()
    assert made.model.drop_path
    trainers = [Trainer(made, kernels=Kernels(recompute=again)) for again in (False, True)]
    for step in range(2):
        batch = random_batch(made)
        one, two = (trainer.update(batch, at(made, step)) for trainer in trainers)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    parameters = zip(*(trainer.model.parameters() for trainer in trainers), strict=True)
    assert all(torch.equal(a, b) for a, b in parameters)

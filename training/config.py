"""What a training recipe may say. ``recipe`` may change the result; ``runtime`` must not."""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from conf import Section

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(gt=0)]
Shares = Annotated[tuple[Share, Share], Field(strict=False)]  # YAML has lists only
Weights = Annotated[tuple[Weight, Weight], Field(strict=False)]
Temperatures = Annotated[tuple[Temperature, Temperature], Field(strict=False)]


class Architecture(Section):
    """The backbone; with its weights, all that is needed to build it again."""

    arch: Literal["vit_pico", "vit_nano", "vit_tiny", "vit_small", "vit_base", "vit_large", "vit_giant2"] = "vit_small"
    patch_size: Positive = 14
    in_channels: Positive = 3
    image_size: Positive = 224  # side of the images whose grid the position embedding has; others are interpolated
    num_register_tokens: Count = 0
    ffn: Literal["mlp", "swiglu"] = "mlp"
    layer_scale: Annotated[float, Field(gt=0)] = 1e-5  # initial gamma
    # standard deviation of the first weights of linear layers; fan_in: 1 / sqrt(inputs), for networks so narrow that
    # 0.02 leaves next to nothing of what goes through a block
    init_std: Annotated[float, Field(gt=0)] | Literal["fan_in"] = 0.02
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of a batch that skips a residual branch

    @model_validator(mode="after")
    def _grid_is_whole(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self


class Head(Section):
    """A projection head: three layers, L2 norm, prototypes."""

    prototypes: Positive = 65536
    hidden: Positive = 2048
    bottleneck: Positive = 256


class Heads(Section):
    """The heads; without ``ibot``, patch tokens go through the ``dino`` head (tied)."""

    dino: Head = Head()
    ibot: Head | None = None


class Pixels(Section):
    """What the values of pixels mean; by default those of RGB, as every DINOv2 checkpoint expects them."""

    mean: Annotated[tuple[float, ...], Field(strict=False)] = (0.485, 0.456, 0.406)  # of each channel, in 0..1
    std: Annotated[tuple[float, ...], Field(strict=False)] = (0.229, 0.224, 0.225)
    # of samples deeper than 8 bits, what is black and white; 16 bits have one of their own
    range: Annotated[tuple[float, float], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _can_divide(self) -> Self:
        if min(self.std, default=1) <= 0:
            raise ValueError(f"std {self.std} must be above 0: pixels are divided by it")
        if self.range and self.range[0] >= self.range[1]:
            raise ValueError(f"range {self.range} must rise: [black, white]")
        return self


class Crops(Section):
    """Multi-crop augmentation: two global crops and ``num_local`` local ones."""

    global_size: Positive = 224
    local_size: Positive = 98
    num_local: Count = 8
    global_scale: Shares = (0.32, 1.0)  # of the image's area
    local_scale: Shares = (0.05, 0.32)
    blur: Literal["documented", "upstream", "none"] = "documented"  # see training.data.augment.BLUR
    augment: Literal["worker", "device"] = "worker"  # who changes colours; the device rounds elsewhere

    @model_validator(mode="after")
    def _scales_are_ranges(self) -> Self:
        for key in ("global_scale", "local_scale"):
            lowest, highest = getattr(self, key)
            if not 0 < lowest <= highest:
                raise ValueError(f"{key} {[lowest, highest]} must be 0 < lowest <= highest <= 1")
        return self


class Masking(Section):
    """Block masks over the student's global crops."""

    probability: Share = 0.5  # share of the global crops that are masked
    ratio: Shares = (0.1, 0.5)  # share of a masked crop's patches
    exact_count: bool = False  # complete each mask to its drawn number of patches


class Losses(Section):
    """Weights of the terms, and how the teacher's scores become targets."""

    dino_weight: Weight = 1.0
    ibot_weight: Weight = 1.0
    koleo_weight: Weight = 0.1
    centering: Literal["sinkhorn", "softmax"] = "sinkhorn"
    queue: Count = 0  # samples before the batch whose class tokens Sinkhorn balances with its own
    student_temp: Temperature = 0.1

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not self.dino_weight + self.ibot_weight:
            raise ValueError("dino_weight and ibot_weight are both 0, so there is no teacher to follow; set one")
        if self.queue and self.centering == "softmax":
            raise ValueError(
                "queue: softmax centering keeps a mean over batches already; use centering=sinkhorn or queue=0"
            )
        if self.queue and not self.dino_weight:
            raise ValueError("queue holds class tokens, but dino_weight is 0 and nobody compares them; set queue=0")
        return self


class Optimiser(Section):
    """AdamW and its schedules."""

    base_lr: Annotated[float, Field(gt=0)] = 4e-3  # for a batch of 1,024; scaled by sqrt(batch_size_global / 1024)
    min_lr: Weight = 1e-6
    warmup_steps: Count = 0
    weight_decay: Weights = (0.04, 0.4)  # first and last
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    patch_embed_lr: Weight = 0.2  # multiplier on top of the layer decay
    freeze_last_layer_steps: Count = 0
    clip_norm: Annotated[float, Field(gt=0)] = 3.0  # of each sub-module: backbone, DINO head, iBOT head


class Teacher(Section):
    """The moving average that sets the targets."""

    momentum: Shares = (0.992, 1.0)  # first and last
    temp: Temperatures = (0.04, 0.07)  # first and last of the warm-up
    temp_warmup_steps: Count = 0


class Initial(Section):
    """Weights to start from, read at step 0 alone."""

    path: str  # tensors, as .safetensors or as torch saves them
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    format: Literal["auto", "upstream", "timm", "transformers"] = "auto"  # whose names; ours are upstream's
    heads: bool = False  # also the projection heads, as in upstream's teacher_checkpoint.pth


class Recipe(Section):
    """Everything that may change the result."""

    seed: Count = 0
    steps: Positive
    batch_size_global: Positive
    precision: Literal["auto", "bf16", "fp32"] = "fp32"  # auto: bf16 where the hardware multiplies it, else fp32
    model: Architecture = Architecture()
    heads: Heads = Heads()
    pixels: Pixels = Pixels()
    crops: Crops = Crops()
    masking: Masking = Masking()
    losses: Losses = Losses()
    optimiser: Optimiser = Optimiser()
    teacher: Teacher = Teacher()
    initial: Initial | None = None  # of student and teacher; None: random
    # After the steps above: each goes on from the weights before it, with a new optimiser and schedules of its own
    # length. A phase may name any key; what it does not name is as above.
    phases: Annotated[tuple["Recipe", ...], Field(strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _phases_are_whole(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("phases"), list | tuple):
            return values
        above = {key: value for key, value in values.items() if key not in ("phases", "initial")}
        return {**values, "phases": [_merged(above, phase) for phase in values["phases"]]}

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        for number, phase in enumerate(self.phases):
            if phase.phases:
                raise ValueError(f"phases.{number}.phases: a phase has no phases; put them one after another")
            if phase.initial:
                raise ValueError(f"phases.{number}.initial: a phase goes on from the weights before it; drop it")
            model = phase.model.model_copy(update={"image_size": self.model.image_size})
            same = phase.model_copy(update={"model": model})
            for key in ("seed", "precision", "model", "pixels", "heads", "losses"):
                if getattr(same, key) != getattr(self, key):
                    hint = " (but model.image_size)" if key == "model" else ""
                    raise ValueError(f"phases.{number}.{key}: cannot change{hint}; drop it or start another run")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        channels, mean, std = self.model.in_channels, self.pixels.mean, self.pixels.std
        if not len(mean) == len(std) == channels:
            raise ValueError(f"model.in_channels {channels} needs as many values of pixels.mean {mean} and std {std}")
        patch = self.model.patch_size
        for key in ("global_size", "local_size"):
            size = getattr(self.crops, key)
            if size % patch:
                raise ValueError(f"crops.{key} {size} is not a multiple of model.patch_size {patch}")
        if self.losses.koleo_weight and self.batch_size_global < 2:
            raise ValueError("KoLeo needs a neighbour: set batch_size_global to 2 or more, or losses.koleo_weight=0")
        if self.heads.ibot and not self.losses.ibot_weight:
            raise ValueError("heads.ibot is set but losses.ibot_weight is 0: the head would never learn; drop one")
        if self.losses.ibot_weight and not int(2 * self.batch_size_global * self.masking.probability):
            raise ValueError("losses.ibot_weight needs masked crops: raise masking.probability or batch_size_global")
        if not 0 < self.masking.ratio[0] <= self.masking.ratio[1] <= 1:
            raise ValueError(f"masking.ratio {self.masking.ratio} must be 0 < lowest <= highest <= 1")
        if max(self.optimiser.warmup_steps, self.optimiser.freeze_last_layer_steps) > self.steps:
            raise ValueError(f"optimiser.warmup_steps and freeze_last_layer_steps must not exceed steps ({self.steps})")
        return self


def _merged(above: Any, own: Any) -> Any:
    """What ``own`` says, and below it what ``above`` says; anything but mappings is taken as it is."""
    if not isinstance(above, dict) or not isinstance(own, dict):
        return own
    return above | {key: _merged(above.get(key), value) for key, value in own.items()}


class Data(Section):
    """What to learn from."""

    # a release of spark_jobs.run, or a folder, pattern or range of images, tars or Parquet; or a list of these
    release: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    field: str | None = None  # of tars and Parquet: which extension or column is the image, where there are several


class Slurm(Section):
    """What submitit asks for; ``cluster: local`` runs the job on this machine."""

    cluster: Literal["slurm", "local"] = "slurm"
    nodes: Positive = 1  # machines, with runtime.processes on each
    timeout_min: Positive = 60
    signal_delay_s: Positive = 120  # so long before the time limit the run saves and queues itself again
    requeues: Count = 1000  # how often, at most, it does so
    partition: str | None = None
    cpus_per_task: Positive = 2
    gpus_per_node: Count = 0


class Probe(Section):
    """Weighted k-NN with the teacher's class tokens, now and then; folders hold one folder a class."""

    every_steps: Positive
    train: str
    test: str
    k: Positive = 20
    size: Positive | None = None  # side in px to which pictures are brought; None: that of the global crops


class Runtime(Section):
    """Everything that must not change the result."""

    launcher: Literal["here", "submitit"] = "here"  # this machine, or a job
    processes: Positive = 1  # on each machine; on one with CUDA, a process a device
    slurm: Slurm = Slurm()  # read by launcher: submitit
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # of packed crops on CUDA: torch's varlen kernel, xformers', or torch's scaled dot-product attention by group; auto:
    # the first that works
    attention: Literal["auto", "varlen", "xformers", "sdpa"] = "auto"
    compile: Literal["auto"] | bool = "auto"  # the backbone's blocks, by torch.compile; auto: on CUDA
    recompute: bool = False  # keep each block's input alone, the rest is computed again: a third more time, less memory
    workers: Count = 1  # processes that decode and augment
    accumulate: Positive = 1  # parts of a process's batch, one by one; as with processes, only stochastic depth differs
    log_every_steps: Positive = 10
    checkpoint_every_steps: Positive = 100
    keep_checkpoints: Positive = 2
    max_nonfinite_steps: Positive = 20  # in a row, then the run stops
    if_changed: Literal["refuse", "restart"] = "refuse"  # a run folder that holds another recipe or release
    health_every_steps: Count = 50  # the panel that alarms of collapse look at; 0: never
    pictures_every_steps: Count = 5000  # of crops, masks and patches; also at the first and last step; 0: never
    probe: Probe | None = None
    tensorboard: bool = True  # event files beside metrics.jsonl, where the package is installed
    wandb: str | None = None  # a project of Weights & Biases; offline unless WANDB_API_KEY or WANDB_MODE is set
    peak_tflops: Annotated[float, Field(gt=0)] | None = None  # of one device, what MFU is a share of; else found out


class TrainConfig(Section):
    """A file of conf/training."""

    output: str  # the run folder
    data: Data
    recipe: Recipe
    runtime: Runtime = Runtime()


def device(runtime: Runtime) -> torch.device:
    """The device to compute on.

    Raises:
        ValueError: CUDA is asked for and absent.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("runtime.device = 'cuda': no CUDA device is visible; use runtime.device=cpu or auto")
    has_cuda = runtime.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if has_cuda else "cpu")


def resolve(recipe: Recipe, where: torch.device) -> Recipe:
    """The recipe with ``precision: auto`` decided, so that its digest names the numbers that were really computed."""
    if recipe.precision != "auto":
        return recipe
    if where.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # elsewhere bf16 on a CPU is emulated and slower than fp32
        has = torch.cpu.get_capabilities()
        fast = bool(has.get("amx_bf16") or has.get("avx512_bf16"))
    decided = {"precision": "bf16" if fast else "fp32"}
    return recipe.model_copy(
        update={**decided, "phases": tuple(phase.model_copy(update=decided) for phase in recipe.phases)}
    )

"""What a recipe of the copy descriptor holds."""

from pydantic import Field, model_validator

from conf import Section


class Folder(Section):
    """Pictures of one kind, and how much of each step they give."""

    path: str  # below data.root
    share: float = Field(gt=0, le=1)
    every: int = Field(1, ge=1)  # take one picture in so many


class Data(Section):
    """Where the pictures are, and which of them must not be learned from."""

    root: str
    folders: list[Folder] = Field(min_length=1)
    hold_out: list[str]  # TSV files below root; a picture whose name stands in a cell is left out


class Weights(Section):
    """A file that must be the one it is said to be."""

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Network(Section):
    """Backbone, its first weights, and what of it is trained."""

    backbone: str  # timm's name of a convolutional network
    options: dict[str, str | int | list[int]] = {}  # for timm.create_model
    dim: int = Field(512, gt=0)
    mean: list[float] = Field([0.485, 0.456, 0.406], min_length=3, max_length=3)  # of values 0 to 1
    std: list[float] = Field([0.229, 0.224, 0.225], min_length=3, max_length=3)
    initial: Weights | None = None  # a state_dict of the backbone, from torch.save; None: random
    frozen: list[str] = []  # parameters of the backbone whose names hold one of these stay as they are


class Edits(Section):
    """How pictures become copies of each other."""

    size: int = Field(gt=0)  # pixels of the square a view is squashed to
    least_area: float = Field(gt=0, le=1)  # of a strong crop
    easy: float = Field(ge=0, le=1)  # share of the steps over which edits grow from rare to usual
    mild: float = Field(ge=0, le=1)  # share of first views that are barely edited
    tiles: float = Field(ge=0, le=1)  # share of pictures that give two disjoint tiles, as two sources
    mixed: float = Field(ge=0, le=1)  # share of second views mixed with another source


class Recipe(Section):
    """All that may change the weights; its digest is kept in their metadata."""

    seed: int
    steps: int = Field(gt=0)
    sources_per_step: int = Field(gt=1)  # each gives two views
    precision: str = Field(pattern="^(bf16|fp32)$")
    network: Network
    edits: Edits
    temperature: float = Field(gt=0)
    entropy_weight: float = Field(ge=0)
    lr: float = Field(gt=0)
    projection_lr: float = Field(gt=0)  # of the projection, which starts as a whitening of the pooled channels
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    whitening_steps: int = Field(gt=0)  # the views of so many last steps decide the first projection


class Descriptor(Section):
    """What is made of the trained network."""

    size: int = Field(gt=0)  # pixels of the square to which pictures are squashed


class Runtime(Section):
    """What changes the speed only."""

    workers: int = Field(ge=0)
    threads: int = Field(gt=0)
    log_every_steps: int = Field(gt=0)
    checkpoint_every_steps: int = Field(gt=0)


class CopiesConfig(Section):
    """The whole file."""

    output: str  # folder of the run
    data: Data
    recipe: Recipe
    descriptor: Descriptor
    runtime: Runtime

    @model_validator(mode="after")
    def _shares_make_one(self) -> "CopiesConfig":
        total = sum(folder.share for folder in self.data.folders)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of data.folders add up to {total:g}; make them add up to 1")
        return self

"""Student, teacher and the objective: DINOv2 as a function of a batch (Oquab et al., 2024, section 4)."""

import copy

import torch
from torch import Tensor, nn

from training.config import Head, Recipe
from training.data.augment import normalise
from training.data.loader import Batch
from training.losses.centering import moved_center, softmax_around_
from training.losses.dino import dino_targets, dino_terms
from training.losses.ibot import ibot
from training.losses.koleo import koleo
from training.losses.sinkhorn import sinkhorn_
from training.models.head import DINOHead
from training.models.vit import VisionTransformer
from training.processes import ALONE, Processes
from training.sharding import local, shard


class DINOv2(nn.Module):
    """The student learns to predict the teacher, a moving average of the student.

    ``student`` and ``teacher`` hold ``backbone`` and, where a loss uses them, ``dino_head`` and ``ibot_head``.
    """

    def __init__(self, recipe: Recipe, processes: Processes = ALONE) -> None:
        super().__init__()
        self.recipe, self.processes = recipe, processes
        backbone = VisionTransformer(recipe.model)
        heads = {name: DINOHead(backbone.dim, head) for name, head in _heads(recipe).items()}
        self.student = nn.ModuleDict({"backbone": backbone, **heads})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.num_local = recipe.crops.num_local
        self.ibot_head = "ibot_head" if "ibot_head" in heads else "dino_head"
        for token, name in (("cls", "dino_head"), ("patch", self.ibot_head)):
            num_prototypes = len(heads[name].last_layer.weight_g) if name in heads else 0
            self.register_buffer(f"{token}_center", torch.zeros(num_prototypes))

    def share_out(self) -> None:
        """Leave each process its part of the parameters; after this, an optimiser may be built over them."""
        for network, learns in ((self.student, True), (self.teacher, False)):
            shard(network, self.recipe.precision, self.processes, learns=learns)

    def losses(self, batch: Batch, teacher_temp: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The objective and its terms.

        Args:
            batch: on the device of the model.
            teacher_temp: temperature of the targets.

        Returns:
            Scalars: ``loss``, which is what is optimised, and the weighted terms ``loss_*`` that it sums. Then the
            centres that :meth:`update_teacher` keeps if the step succeeds.
        """
        weights, num_crops = self.recipe.losses, len(batch.masks)
        images = normalise(batch.global_crops, self.recipe.pixels)
        with self._autocast(images):
            targets, centers = self._targets(images, batch, teacher_temp)
            crops: list[Tensor] = [images]
            masks: list[Tensor | None] = [batch.masks]
            if weights.dino_weight and self.num_local:
                crops.append(normalise(batch.local_crops, self.recipe.pixels))
                masks.append(None)
            classes, patches = self._places(batch, crops)
            tokens = _backbone(self.student).select(crops, masks, torch.cat((classes, patches)))
            of_classes, of_patches = tokens.split([len(classes), len(patches)])
            losses = self._cross_entropies(of_classes, of_patches, targets)
            terms: dict[str, Tensor] = {}
            if weights.dino_weight:
                terms |= dino_terms(losses["cls"], self.num_local)
            if weights.ibot_weight:
                terms["ibot"] = ibot(losses["patch"], batch.mask_weights, num_crops)
            if weights.koleo_weight:  # never between two crops of one image: they should be near
                crops = [self.processes.gather(crop) for crop in tokens[:num_crops].chunk(2)]
                terms["koleo"] = torch.stack([koleo(crop) for crop in crops]).sum()
        factor = {"dino": weights.dino_weight, "ibot": weights.ibot_weight, "koleo": weights.koleo_weight}
        terms = {name: factor[name.partition("_")[0]] * term for name, term in terms.items()}
        total = torch.stack(list(terms.values())).sum()
        return {"loss": total, **{f"loss_{name}": term for name, term in terms.items()}}, centers

    @torch.no_grad()
    def update_teacher(self, momentum: float, centers: dict[str, Tensor], finite: Tensor) -> None:
        """Move the teacher towards the student where ``finite`` (a bool scalar) holds; no synchronisation."""
        share = torch.where(finite, 1 - momentum, 0.0)
        for average, value in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            local(average).lerp_(local(value), share)
        for name, center in centers.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.where(finite, center, buffer))

    @torch.no_grad()
    def _targets(self, images: Tensor, batch: Batch, temp: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The teacher's distributions, ``cls`` [2 B, K] and ``patch`` [M, K], and the centres of the next step."""
        classes, patches = self._places(batch, [images])
        tokens = _backbone(self.teacher).select([images], [None], torch.cat((classes, patches)))
        targets, centers, processes = {}, {}, self.processes
        for head, part in self._by_head(*tokens.split([len(classes), len(patches)])).items():
            scores = self.teacher[head](torch.cat(list(part.values())))
            for token, score in zip(part, scores.split([len(x) for x in part.values()]), strict=True):
                if self.recipe.losses.centering == "sinkhorn":
                    targets[token] = sinkhorn_(score, temp, logsumexp=processes.logsumexp, total=processes.total)
                else:
                    center = self.get_buffer(f"{token}_center")
                    centers[f"{token}_center"] = moved_center(center, score, processes.total)
                    targets[token] = softmax_around_(score, center, temp)
        return targets, centers

    def _cross_entropies(self, classes: Tensor, patches: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the student's tokens with what each follows: ``cls`` [(2 + L) B] and ``patch`` [M]."""
        found: dict[str, Tensor] = {}
        for head, part in self._by_head(classes, patches).items():

            def followed(prototypes: slice, names: tuple[str, ...] = tuple(part)) -> Tensor:
                every = {name: targets[name][:, prototypes] for name in names}
                if "cls" in every:
                    every["cls"] = dino_targets(every["cls"], self.num_local)
                return torch.cat(list(every.values()))

            losses = self.student[head](torch.cat(list(part.values())), followed, self.recipe.losses.student_temp)
            found |= dict(zip(part, losses.split([len(x) for x in part.values()]), strict=True))
        return found

    def _by_head(self, classes: Tensor, patches: Tensor) -> dict[str, dict[str, Tensor]]:
        """Which tokens go through which head; through a shared one in one pass."""
        every: dict[str, dict[str, Tensor]] = {}
        if self.recipe.losses.dino_weight:
            every["dino_head"] = {"cls": classes}
        if self.recipe.losses.ibot_weight:
            every.setdefault(self.ibot_head, {})["patch"] = patches
        return every

    def _places(self, batch: Batch, crops: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Where packed crops have their class tokens, and the first group its masked patches (none without iBOT)."""
        backbone, start = _backbone(self.student), 0
        classes: list[Tensor] = []
        for group in crops:
            tokens = backbone.num_tokens(group)
            classes.append(torch.arange(len(group), device=group.device) * tokens + start)
            start += len(group) * tokens
        num_patches = batch.masks.shape[1]
        masked = batch.mask_indices if self.recipe.losses.ibot_weight else batch.mask_indices[:0]
        crop, patch = masked // num_patches, masked % num_patches
        return torch.cat(classes), crop * backbone.num_tokens(crops[0]) + backbone.first_patch + patch

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def _backbone(network: nn.ModuleDict) -> VisionTransformer:
    backbone = network["backbone"]
    assert isinstance(backbone, VisionTransformer)
    return backbone


def _heads(recipe: Recipe) -> dict[str, Head]:
    """Only the heads that a loss uses, so that every parameter has a gradient."""
    heads = {}
    if recipe.losses.dino_weight or recipe.heads.ibot is None:
        heads["dino_head"] = recipe.heads.dino
    if recipe.heads.ibot is not None:
        heads["ibot_head"] = recipe.heads.ibot
    return heads

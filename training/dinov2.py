"""Student, teacher and the objective: DINOv2 as a function of a batch (Oquab et al., 2024, section 4)."""

import copy

import torch
from torch import Tensor, nn

from training.config import Head, Recipe
from training.data.augment import normalise
from training.data.loader import Batch
from training.losses.centering import moved_center, softmax_around
from training.losses.dino import dino_global, dino_local
from training.losses.ibot import ibot
from training.losses.koleo import koleo
from training.losses.sinkhorn import sinkhorn
from training.models.head import DINOHead
from training.models.vit import Features, VisionTransformer
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
        recipe, weights = self.recipe, self.recipe.losses
        images = normalise(batch.global_crops)
        with self._autocast(images):
            targets, centers = self._targets(images, batch, teacher_temp)
            seen: Features = self.student["backbone"](images, batch.masks)
            terms: dict[str, Tensor] = {}
            if weights.dino_weight:
                head, num_local = self.student["dino_head"], recipe.crops.num_local
                scores = head(seen.cls_token).unflatten(0, (2, -1))
                terms["dino_global"] = dino_global(scores, targets["cls"], weights.student_temp, num_local)
                if num_local:
                    local = self.student["backbone"](normalise(batch.local_crops)).cls_token
                    scores = head(local).unflatten(0, (num_local, -1))
                    terms["dino_local"] = dino_local(scores, targets["cls"], weights.student_temp)
            if weights.ibot_weight:
                masked = seen.patch_tokens.flatten(0, 1)[batch.mask_indices]
                scores = self.student[self.ibot_head](masked)
                terms["ibot"] = ibot(
                    scores, targets["patch"], batch.mask_weights, len(batch.masks), weights.student_temp
                )
            if weights.koleo_weight:  # never between two crops of one image: they should be near
                terms["koleo"] = torch.stack(
                    [koleo(self.processes.gather(crop)) for crop in seen.cls_token.chunk(2)]
                ).sum()
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
        """The teacher's distributions: ``cls`` [2, B, K] and ``patch`` [M, K]; and the centres of the next step."""
        seen: Features = self.teacher["backbone"](images)
        scores: dict[str, Tensor] = {}
        if self.recipe.losses.dino_weight:
            scores["cls"] = self.teacher["dino_head"](seen.cls_token)
        if self.recipe.losses.ibot_weight:
            scores["patch"] = self.teacher[self.ibot_head](seen.patch_tokens.flatten(0, 1)[batch.mask_indices])
        targets, centers = {}, {}
        for token, score in scores.items():
            if self.recipe.losses.centering == "sinkhorn":
                targets[token] = sinkhorn(score, temp, logsumexp=self.processes.logsumexp)
            else:
                center = self.get_buffer(f"{token}_center")
                targets[token] = softmax_around(score, center, temp)
                centers[f"{token}_center"] = moved_center(center, score, self.processes.total)
        if "cls" in targets:
            targets["cls"] = targets["cls"].unflatten(0, (2, -1))
        return targets, centers

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def _heads(recipe: Recipe) -> dict[str, Head]:
    """Only the heads that a loss uses, so that every parameter has a gradient."""
    heads = {}
    if recipe.losses.dino_weight or recipe.heads.ibot is None:
        heads["dino_head"] = recipe.heads.dino
    if recipe.heads.ibot is not None:
        heads["ibot_head"] = recipe.heads.ibot
    return heads

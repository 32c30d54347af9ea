"""Student, teacher and the objective: DINOv2 as a function of a batch (Oquab et al., 2024, section 4)."""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from training.config import Head, Recipe
from training.data.augment import normalise
from training.data.loader import Batch
from training.losses.centering import moved_center, softmax_around_
from training.losses.dino import dino_targets, dino_terms
from training.losses.ibot import ibot
from training.losses.koleo import koleo_among
from training.losses.sinkhorn import sinkhorn_
from training.models.head import DINOHead
from training.models.vit import Features, VisionTransformer
from training.processes import ALONE, Processes
from training.sharding import average_after, local, shard
from training.watch.health import Health


class DINOv2(nn.Module):
    """The student learns to predict the teacher, a moving average of the student.

    ``student`` and ``teacher`` hold ``backbone`` and, where a loss uses them, ``dino_head`` and ``ibot_head``.
    """

    def __init__(self, recipe: Recipe, processes: Processes = ALONE) -> None:
        super().__init__()
        self.recipe, self.processes = recipe, processes
        self.health: Health | None = None  # told what the teacher makes of each batch
        backbone = VisionTransformer(recipe.model)
        heads = {name: DINOHead(backbone.dim, head) for name, head in _heads(recipe).items()}
        self.student = nn.ModuleDict({"backbone": backbone, **heads})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.num_local = recipe.crops.num_local
        self.ibot_head = "ibot_head" if "ibot_head" in heads else "dino_head"
        for token, name in (("cls", "dino_head"), ("patch", self.ibot_head)):
            num_prototypes = len(heads[name].last_layer.weight_g) if name in heads else 0
            self.register_buffer(f"{token}_center", torch.zeros(num_prototypes))
        if recipe.losses.queue:
            self.register_buffer("cls_queue", torch.zeros(recipe.losses.queue, 2, recipe.heads.dino.bottleneck))

    def share_out(self, *, accumulates: bool = False) -> None:
        """Leave each process its part of the parameters; after this, an optimiser may be built over them.

        Args:
            accumulates: whether batches will come in several parts.
        """
        for network, learns in ((self.student, True), (self.teacher, False)):
            shard(network, self.recipe.precision, self.processes, learns=learns, accumulates=accumulates)

    def losses(
        self, parts: Sequence[Batch], teacher_temp: float
    ) -> tuple[Iterator[dict[str, Tensor]], dict[str, Tensor]]:
        """The objective and its terms over a batch, which may come in parts.

        What looks at a whole batch, which are the balance of the targets and KoLeo, looks at all parts of all
        processes, so that values and gradients of the parts add up to those of the batch.

        Args:
            parts: of as many samples each, on the device of the model.
            teacher_temp: temperature of the targets.

        Returns:
            For every part, computed when it is asked for, scalars: ``loss``, which is what is optimised and whose
            gradient is to be taken before the next part, and the weighted terms ``loss_*`` that it sums. Then what
            :meth:`update_teacher` remembers of the batch if the step succeeds.
        """
        with self._autocast(parts[0].masks.device):
            targets, memory = self._targets(parts, teacher_temp)
        return self._shares(parts, targets), memory

    @torch.no_grad()
    def update_teacher(self, momentum: float, memory: dict[str, Tensor], finite: Tensor) -> None:
        """Move the teacher towards the student where ``finite`` (a bool scalar) holds; no synchronisation.

        Args:
            momentum: of the teacher.
            memory: new values of buffers, by name.
            finite: whether the step succeeded.
        """
        share = torch.where(finite, 1 - momentum, 0.0)
        for average, value in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            local(average).lerp_(local(value), share)
        for name, remembered in memory.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.where(finite, remembered, buffer))

    @torch.no_grad()
    def teacher_features(self, images: Tensor) -> Features:
        """What the teacher's backbone makes of uint8 images [B, S, S, 3]; every process must ask for as many."""
        with self._autocast(images.device):
            return _backbone(self.teacher)(normalise(images, self.recipe.pixels))

    @torch.no_grad()
    def _targets(self, parts: Sequence[Batch], temp: float) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """For every part the teacher's distributions ``cls`` [2 b, K] and ``patch`` [m, K]; and what is remembered."""
        tokens: dict[str, list[Tensor]] = {"cls": [], "patch": []}
        for part in parts:
            images = normalise(part.global_crops, self.recipe.pixels)
            places = self._places(part, [images])
            found = _backbone(self.teacher).select([images], [None], torch.cat(places))
            for rows, token in zip(tokens.values(), found.split([len(place) for place in places]), strict=True):
                rows.append(token)
        targets: dict[str, Tensor] = {}
        memory: dict[str, Tensor] = {}
        for head, every in self._by_head(*(torch.cat(rows) for rows in tokens.values())).items():
            queued = self._queued() if "cls" in every else None
            scores, embedded = _head(self.teacher, head).scores(torch.cat(list(every.values())), queued)
            if self.health is not None:
                self.health.note_scores(scores)
            sizes = [len(rows) for rows in every.values()]
            sizes[0] += len(scores) - len(embedded)  # queued rows are ahead of those of class tokens
            for token, score in zip(every, scores.split(sizes), strict=True):
                targets[token], remembered = self._target(token, score, temp, queued if token == "cls" else None)
                memory |= remembered
            if queued is not None:
                newest = self._every(embedded[: len(every["cls"])].chunk(len(parts))).transpose(0, 1)
                memory["cls_queue"] = torch.cat((self.get_buffer("cls_queue"), newest))[len(newest) :]
        if self.health is not None:
            firsts = torch.cat([rows.chunk(2)[0] for rows in tokens["cls"]])
            self.health.note(firsts, targets["cls" if "cls" in targets else "patch"])
        split = [rows.split([len(part) for part in tokens[token]]) for token, rows in targets.items()]
        return [dict(zip(targets, part, strict=True)) for part in zip(*split, strict=True)], memory

    def _target(
        self, token: str, scores: Tensor, temp: float, queued: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores [q + n, K], of queued rows and of the batch's, to distributions [n, K] in their place."""
        if self.recipe.losses.centering == "softmax":
            center = self.get_buffer(f"{token}_center")
            moved = moved_center(center, scores, self.processes.total)
            return softmax_around_(scores, center, temp), {f"{token}_center": moved}
        num_queued, counts = 0, None
        if queued is not None:
            num_queued, counts = len(queued), scores.new_ones(len(scores))
            counts[:num_queued] = queued.any(1)
        logsumexp, total = self.processes.logsumexp, self.processes.total
        return sinkhorn_(scores, temp, weights=counts, logsumexp=logsumexp, total=total)[num_queued:], {}

    def _queued(self) -> Tensor | None:
        """This process's share of the queue, [q, bottleneck]; places that nothing was put into yet are zero."""
        if not self.recipe.losses.queue:
            return None
        return self.get_buffer("cls_queue").flatten(0, 1)[self.processes.rank :: self.processes.count]

    def _shares(self, parts: Sequence[Batch], targets: Sequence[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """What every part adds to the losses."""
        weights = self.recipe.losses
        factor = {"dino": weights.dino_weight, "ibot": weights.ibot_weight, "koleo": weights.koleo_weight}
        with self._autocast(parts[0].masks.device):
            every = self._class_tokens(parts) if weights.koleo_weight and len(parts) > 1 else None
        for number, (part, target) in enumerate(zip(parts, targets, strict=True)):
            average_after(self.student, this_pass=number == len(parts) - 1)
            with self._autocast(parts[0].masks.device):
                tokens, terms = self._followed(part, target)
                if weights.koleo_weight:
                    classes = tokens[: len(part.masks)]
                    others = self._every([classes]) if every is None else every
                    place = self.processes.rank * len(parts) + number
                    terms["koleo"] = koleo_among(classes, others, place, self.processes.count * len(parts))
            terms = {name: factor[name.partition("_")[0]] * term / len(parts) for name, term in terms.items()}
            total = torch.stack(list(terms.values())).sum()
            yield {"loss": total, **{f"loss_{name}": term for name, term in terms.items()}}

    def _followed(self, batch: Batch, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's tokens, class tokens of global crops first, and the terms in which it follows the teacher."""
        crops, masks = [normalise(batch.global_crops, self.recipe.pixels)], [batch.masks, None]
        if self.recipe.losses.dino_weight and self.num_local:
            crops.append(normalise(batch.local_crops, self.recipe.pixels))
        classes, patches = self._places(batch, crops)
        tokens = _backbone(self.student).select(crops, masks[: len(crops)], torch.cat((classes, patches)))
        of_classes, of_patches = tokens.split([len(classes), len(patches)])
        losses = self._cross_entropies(of_classes, of_patches, targets)
        terms: dict[str, Tensor] = {}
        if "cls" in losses:
            terms |= dino_terms(losses["cls"], self.num_local)
        if "patch" in losses:
            terms["ibot"] = ibot(losses["patch"], batch.mask_weights, len(batch.masks))
        return tokens, terms

    @torch.no_grad()
    def _class_tokens(self, parts: Sequence[Batch]) -> Tensor:
        """The student's class tokens of all global crops, [2, B, D], from a pass of their own."""
        found = []
        for part in parts:
            images = normalise(part.global_crops, self.recipe.pixels)
            classes, _ = self._places(part, [images])
            found.append(_backbone(self.student).select([images], [part.masks], classes))
        return self._every(found)

    def _every(self, tokens: Sequence[Tensor]) -> Tensor:
        """What parts of all processes have for their global crops, [2 b, D] each, as [2, B, D]; without gradient."""
        parts = torch.stack([rows.unflatten(0, (2, -1)) for rows in tokens])
        return self.processes.gather(parts).transpose(0, 1).flatten(1, 2)

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

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")


def _backbone(network: nn.ModuleDict) -> VisionTransformer:
    backbone = network["backbone"]
    assert isinstance(backbone, VisionTransformer)
    return backbone


def _head(network: nn.ModuleDict, name: str) -> DINOHead:
    head = network[name]
    assert isinstance(head, DINOHead)
    return head


def _heads(recipe: Recipe) -> dict[str, Head]:
    """Only the heads that a loss uses, so that every parameter has a gradient."""
    heads = {}
    if recipe.losses.dino_weight or recipe.heads.ibot is None:
        heads["dino_head"] = recipe.heads.dino
    if recipe.heads.ibot is not None:
        heads["ibot_head"] = recipe.heads.ibot
    return heads

"""Named alarms: what in a run's numbers is a sign of collapse or divergence, what it means and what to try.

An alarm is a function of the rows of ``metrics.jsonl``; it never stops a run.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

# The health panel. Healthy runs are far from each, see docs/decisions/0023.
ENTROPY_SHARES = (0.001, 0.995)  # of ln K: every target is one prototype, or all prototypes alike
NEAREST_DISTANCE = 0.01  # of unit vectors: two images apart by less are one to the backbone
LOWEST_RANK, RANK_SHARE = 2.5, 0.02  # effective rank: by itself, and of the highest that as many features can have
FEW_FEATURES = 32  # of fewer, the rank says little
PROTOTYPE_USE = 0.02  # of the highest number of prototypes that as many samples can choose
LOGIT_OVER_TEMP = 88.0  # exp(88.7) is the largest fp32
# Every step. A number is judged once there are SETTLED rows of it.
SETTLED = 100
LOSS_STEPS, LOSS_WINDOW, LOSS_RISE = 20, 1000, 0.15  # mean of 20 steps, above its lowest of 1,000 by 15 % of the first
GRADIENT_STEPS, GRADIENT_USUAL, GRADIENT_RISE = 10, 1000, 10.0  # geometric mean of 10 steps, over that of 1,000

MEANINGS = {
    "collapse_constant": (
        "All images look alike to the teacher: class tokens hardly differ, or targets are one prototype or all.",
        "lower recipe.optimiser.base_lr, raise the last recipe.teacher.momentum, keep losses.koleo_weight above 0; "
        "with softmax centering try sinkhorn",
    ),
    "collapse_dimensional": (
        "Class tokens vary in a few directions only, so most of the backbone's width carries nothing.",
        "raise recipe.losses.koleo_weight, lower optimiser.base_lr or weight_decay; look for many near-copies in the "
        "data",
    ),
    "collapse_prototypes": (
        "The teacher puts nearly all images on a few prototypes, so that its targets say little.",
        "use losses.centering=sinkhorn, freeze the last layer longer (optimiser.freeze_last_layer_steps), or raise the "
        "batch",
    ),
    "divergence_loss": (
        "The loss is far above where it was, or not a number.",
        "lower optimiser.base_lr or raise warmup_steps; with bf16 compare a run in fp32; look at the gradient norms "
        "before it began",
    ),
    "divergence_logits": (
        "The teacher's scores over its temperature pass what exp can hold in fp32; targets are all or nothing.",
        "lower optimiser.base_lr, raise teacher.temp, or freeze the last layer longer",
    ),
    "divergence_gradients": (
        "Gradients are ten times as long as they were over the last thousand steps; clipping hides it from the loss.",
        "lower optimiser.base_lr or clip_norm, raise the last weight_decay; look at the pictures for broken data",
    ),
}


class Event(NamedTuple):
    """An alarm that begins or ends."""

    step: int
    alarm: str
    begins: bool
    why: str  # the number that decided it

    def words(self) -> str:
        """For a person."""
        if not self.begins:
            return f"step {self.step}: alarm {self.alarm} is over ({self.why})"
        means, remedy = MEANINGS[self.alarm]
        return f"step {self.step}: ALARM {self.alarm} ({self.why}). {means} What to try: {remedy}."


class Alarms:
    """Judges the rows of one phase in their order.

    At the start of training features are alike and targets flat, which is no collapse: an alarm of the health panel
    rings only after its numbers have once been sound, or the warm-up is over.

    Args:
        warmup_steps: the step at which it is over.
    """

    def __init__(self, warmup_steps: int) -> None:
        self._warmup_steps = warmup_steps
        self.on: dict[str, bool] = dict.fromkeys(MEANINGS, False)
        self._sound_once: set[str] = set()
        self._loss = _Mean(LOSS_STEPS)
        self._first_loss = math.nan
        self._last_nonfinite = -LOSS_STEPS
        self._losses: deque[float] = deque(maxlen=LOSS_WINDOW)
        self._gradients: dict[str, tuple[_Mean, _Mean]] = {}

    def judge(self, row: Mapping[str, Any]) -> list[Event]:
        """What begins and what ends with a row; numbers that are not finite are None in it."""
        found = {**self._health(row), **self._divergence(row)}
        events = []
        for alarm, (bad, why) in found.items():
            if bad != self.on[alarm]:
                self.on[alarm] = bad
                events.append(Event(row["step"], alarm, bad, why))
        return events

    def _health(self, row: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
        def number(name: str) -> float | None:
            return row.get(f"health_{name}")

        found: dict[str, tuple[bool, str]] = {}
        entropy, distance = number("teacher_entropy"), number("nearest_distance")
        if entropy is not None:
            far = not ENTROPY_SHARES[0] <= entropy <= ENTROPY_SHARES[1]
            near = distance is not None and distance < NEAREST_DISTANCE
            why = f"teacher entropy {entropy:.4f} of ln K"
            found["collapse_constant"] = far or near, why + (f", nearest distance {distance:.4f}" if distance else "")
        rank, share = number("effective_rank"), number("effective_rank_share")
        if rank is not None and share is not None and row["health_features"] >= FEW_FEATURES:
            found["collapse_dimensional"] = rank < LOWEST_RANK or share < RANK_SHARE, f"effective rank {rank:.1f}"
        if (use := number("prototype_use")) is not None:
            found["collapse_prototypes"] = use < PROTOTYPE_USE, f"{use:.1%} of the prototypes that could be are in use"
        if (logit := number("largest_logit")) is not None:
            ratio = logit / row["teacher_temp"]
            found["divergence_logits"] = (
                ratio > LOGIT_OVER_TEMP,
                f"largest logit {logit:.2f}, {ratio:.0f} over temperature",
            )
        self._sound_once |= {alarm for alarm, (bad, _) in found.items() if not bad}
        armed = row["step"] > self._warmup_steps
        return {alarm: verdict for alarm, verdict in found.items() if armed or alarm in self._sound_once}

    def _divergence(self, row: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
        found: dict[str, tuple[bool, str]] = {}
        if row["loss"] is None:
            self._last_nonfinite = row["step"]
        if row["step"] - self._last_nonfinite < LOSS_STEPS:
            found["divergence_loss"] = True, f"the loss of step {self._last_nonfinite} is not finite"
        elif row["loss"] is not None:
            found["divergence_loss"] = self._of_loss(row["loss"])
        usual: list[tuple[float, str]] = []
        for name, value in row.items():
            if name.startswith("grad_norm_") and value:
                fast, slow = self._gradients.setdefault(name, (_Mean(GRADIENT_STEPS), _Mean(GRADIENT_USUAL)))
                ratio = math.exp(fast.add(math.log(value)) - slow.add(math.log(value)))
                if slow.count >= SETTLED:
                    usual.append((ratio, f"{name} {value:.3g}, {ratio:.1f} times the usual"))
        if usual:
            ratio, why = max(usual)
            found["divergence_gradients"] = ratio > GRADIENT_RISE / (2 if self.on["divergence_gradients"] else 1), why
        return found

    def _of_loss(self, loss: float) -> tuple[bool, str]:
        mean = self._loss.add(loss)
        if self._loss.count == LOSS_STEPS:
            self._first_loss = abs(mean)
        if not self.on["divergence_loss"]:  # while it rings, the lowest before it stays the measure
            self._losses.append(mean)
        lowest = min(self._losses, default=mean)
        rise = LOSS_RISE * self._first_loss / (2 if self.on["divergence_loss"] else 1)
        return self._loss.count >= SETTLED and mean > lowest + rise, f"loss {mean:.3f}, lowest {lowest:.3f}"


class _Mean:
    """A moving average over about ``steps`` values; of the first ones, their mean."""

    def __init__(self, steps: int) -> None:
        self._steps, self.count, self.value = steps, 0, 0.0

    def add(self, value: float) -> float:
        self.count += 1
        self.value += (value - self.value) / min(self.count, self._steps)
        return self.value

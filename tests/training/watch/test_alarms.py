import pytest
import torch

from tests.training.watch.test_health import panel_of, unit
from training.watch.alarms import MEANINGS, SETTLED, Alarms, Event


def rows(losses, norms=None, first=1, **more):
    norms = norms or [1.0] * len(losses)
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), first):
        yield {"step": step, "loss": loss, "grad_norm_backbone": norm, "teacher_temp": 0.05, **more}


def judged(alarms: Alarms, found) -> list[Event]:
    return [event for row in found for event in alarms.judge(row)]


def begun(events: list[Event]) -> list[str]:
    return [event.alarm for event in events if event.begins]


TOKENS = unit(256, 64)
TARGETS = torch.softmax(30 * unit(256, 512, seed=1), 1)
CASES = {
    "healthy": ((TOKENS, TARGETS, torch.ones(2, 2)), set()),
    "one image for all": (
        (unit(1, 64) + 1e-4 * TOKENS, TARGETS, torch.ones(2, 2)),
        {"collapse_constant", "collapse_dimensional"},
    ),
    "flat targets": ((TOKENS, torch.full((256, 512), 1 / 512)), {"collapse_constant", "collapse_prototypes"}),
    "one prototype": ((TOKENS, torch.eye(512)[[3] * 256]), {"collapse_constant", "collapse_prototypes"}),
    "a circle": ((torch.cat((TOKENS[:, :2], torch.zeros(256, 62)), 1), TARGETS), {"collapse_dimensional"}),
    "huge scores": ((TOKENS, TARGETS, torch.full((2, 2), -5.0)), {"divergence_logits"}),
}


@pytest.mark.parametrize("case", CASES)
def test_features_that_collapse_ring_the_right_alarm_and_sound_ones_none(case):
    made, expected = CASES[case]
    alarms = Alarms(warmup_steps=0)
    found = set(begun(judged(alarms, rows([5.0], **panel_of(*made)))))
    assert found == expected
    healthy = judged(alarms, rows([5.0], first=2, **panel_of(*CASES["healthy"][0])))
    assert {event.alarm for event in healthy} == found
    assert not any(event.begins for event in healthy)


def test_a_start_that_is_no_collapse_is_silent_until_the_warm_up_is_over():
    flat, sound = panel_of(*CASES["flat targets"][0]), panel_of(*CASES["healthy"][0])
    alarms = Alarms(warmup_steps=100)
    assert judged(alarms, rows([5.0], first=50, **flat)) == []
    assert begun(judged(alarms, rows([5.0], first=150, **flat))) == ["collapse_constant", "collapse_prototypes"]
    alarms = Alarms(warmup_steps=100)
    assert judged(alarms, rows([5.0], first=50, **sound)) == []
    assert begun(judged(alarms, rows([5.0], first=60, **flat))) == ["collapse_constant", "collapse_prototypes"]


def test_a_loss_that_rises_and_falls_again_is_told_twice():
    falling = [10 - 0.01 * i + 0.3 * (-1) ** i for i in range(300)]
    alarms = Alarms(0)
    assert judged(alarms, rows(falling)) == []
    events = judged(alarms, rows([9.5] * 2000, first=301))  # also longer than the window remembers
    assert begun(events) == ["divergence_loss"]
    assert len(events) == 1
    assert 301 < events[0].step < 340
    events = judged(alarms, rows([7.0] * 60, first=2301))
    assert [(event.alarm, event.begins) for event in events] == [("divergence_loss", False)]


def test_a_slow_rise_is_none():
    """As while the teacher's temperature rises, which makes targets harder to predict."""
    assert judged(Alarms(0), rows([8 + 0.0005 * i for i in range(6000)])) == []


def test_losses_that_are_not_finite_ring_once():
    alarms = Alarms(0)
    events = judged(alarms, rows([8.0] * 50 + [None, 8.0, None] + [8.0] * 50))
    assert [(event.step, event.begins) for event in events] == [(51, True), (73, False)]


def test_long_gradients_ring_when_they_stay():
    alarms, usual = Alarms(0), [1 + 0.5 * (i % 3) for i in range(SETTLED)]
    spike = [*usual, 500.0, *usual]
    assert judged(alarms, rows([8.0] * len(spike), spike)) == []
    events = judged(alarms, rows([8.0] * 30, [60.0] * 30, first=len(spike) + 1))
    assert begun(events) == ["divergence_gradients"]


def test_words_say_what_it_means_and_what_to_try():
    assert set(Alarms(0).on) == set(MEANINGS)
    for alarm in MEANINGS:
        words = Event(7, alarm, True, "because").words()
        assert words.startswith(f"step 7: ALARM {alarm} (because). ")
        assert "What to try: " in words
        assert Event(9, alarm, False, "x").words() == f"step 9: alarm {alarm} is over (x)"

import numpy as np
import pytest

from curation.images.decode import Header
from curation.images.quality import QualityRules, entropy, judge
from curation.schema import Reason

RULES = QualityRules(min_side=64)


def _grey(luma):
    return np.repeat(np.asarray(luma, np.uint8)[..., None], 3, axis=2)


def _judge(width=640, height=480, form="JPEG", num_frames=1, bits=6.0, **rules):
    refusal = judge(Header(form, width, height, num_frames), bits, RULES.model_copy(update=rules))
    return refusal and (refusal.reason, refusal.score, refusal.threshold)


def test_entropy_of_pictures_with_known_histograms():
    halves = np.zeros((32, 32))
    halves[:16] = 255
    assert entropy(_grey(np.full((32, 32), 200))) == 0.0
    assert entropy(_grey(halves)) == 1.0
    assert entropy(_grey(np.arange(1024).reshape(32, 32) % 256)) == 8.0
    quarter = np.zeros((4, 4))
    quarter[0] = 9
    assert entropy(_grey(quarter)) == pytest.approx(0.811278, abs=1e-6)


def test_entropy_sees_luma_alone():
    red_and_blue = np.zeros((2, 2, 3), np.uint8)
    red_and_blue[0] = (150, 0, 0)
    red_and_blue[1] = (0, 77, 0)  # as light as the red
    assert entropy(red_and_blue) == 0.0


def test_entropy_is_at_most_that_of_its_pixels_and_never_negative():
    rng = np.random.default_rng(0)
    for colours in (1, 2, 7, 256):
        bits = entropy(rng.integers(0, colours, (32, 32, 3)).astype(np.uint8))
        assert 0 <= bits <= np.log2(colours) + 1e-6


def test_every_rule_has_its_reason_score_and_threshold():
    assert _judge() is None
    assert _judge(num_frames=3, form="GIF") == (Reason.ANIMATED, 3, 1)
    assert _judge(width=63) == (Reason.TOO_SMALL, 63, 64)
    assert _judge(width=640, height=127) == (Reason.BAD_ASPECT, 640 / 127, 5.0)
    assert _judge(width=127, height=640) == (Reason.BAD_ASPECT, 640 / 127, 5.0)
    assert _judge(bits=0.999) == (Reason.BLANK, 0.999, 1.0)


def test_limits_themselves_are_allowed():
    assert _judge(width=64, height=64) is None
    assert _judge(width=640, height=128) is None
    assert _judge(bits=1.0) is None


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_first_frames_are_kept_where_the_recipe_says_so(form):
    assert _judge(num_frames=2, form=form)[0] == Reason.ANIMATED
    assert _judge(num_frames=2, form=form, animations="first_frame") is None


def test_the_views_of_an_mpo_are_no_animation():
    assert _judge(num_frames=2, form="JPEG") is None


def test_the_first_broken_rule_decides():
    assert _judge(width=1, height=1, bits=0.0, form="GIF")[0] == Reason.TOO_SMALL
    assert _judge(width=1, height=1, bits=0.0, form="GIF", num_frames=2)[0] == Reason.ANIMATED


@pytest.mark.parametrize("limits", [{"max_aspect": 0.5}, {"min_entropy": 9.0}, {"animations": "loop"}, {"min_side": 0}])
def test_limits_without_sense_are_refused(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        QualityRules(**({"min_side": 1} | limits))

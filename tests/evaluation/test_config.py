import pytest

from evaluation.config import usable_ks


def test_k_above_the_train_split_is_left_out_or_refused():
    assert usable_ks([200, 10, 20, 20], 150) == [10, 20]
    with pytest.raises(ValueError, match=r"protocol\.k = \[10\].*only 3 images.*protocol\.k=\[3\]"):
        usable_ks([10], 3)

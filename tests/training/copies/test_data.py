import cv2
import numpy as np
import pytest
import torch

from tests.training.copies.small import config, write_pictures
from training.copies.data import Steps, read_pools


def test_held_out_pictures_are_not_read(tmp_path):
    write_pictures(tmp_path, 6)
    before = read_pools(config(tmp_path).data)[0].pictures
    (tmp_path / "held.tsv").write_text("query\treference\nq.jpg\tphotos/p02.png\n")
    after = read_pools(config(tmp_path).data)[0].pictures
    left_out = cv2.imread(str(tmp_path / "photos/p02.png"))[:, :, ::-1]
    assert (len(before), len(after)) == (6, 5)
    assert any(np.array_equal(picture, left_out) for picture in before)
    assert not any(np.array_equal(picture, left_out) for picture in after)


def test_a_missing_list_is_an_error_that_names_it(tmp_path):
    write_pictures(tmp_path, 2)
    (tmp_path / "held.tsv").unlink()
    with pytest.raises(ValueError, match=r"held\.tsv"):
        read_pools(config(tmp_path).data)


def test_views_are_a_function_of_the_step_alone(tmp_path):
    write_pictures(tmp_path, 6)
    settings = config(tmp_path)
    pools = read_pools(settings.data)
    whole, tail = Steps(pools, settings.recipe), Steps(pools, settings.recipe, first=1)
    assert len(whole) == len(tail) + 1
    for one, other in zip(whole[1], tail[0], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(whole[0][0], whole[1][0])

import numpy as np

from curation.neighbours.halves import widen


def test_all_numbers_become_what_they_are_and_what_is_none_is_told():
    bits = np.arange(2**16, dtype=np.uint16)
    singles = np.empty(2**16, np.float32)
    assert not widen(bits, singles)
    np.testing.assert_array_equal(singles, bits.view(np.float16).astype(np.float32))
    finite = bits[np.isfinite(bits.view(np.float16))]
    assert widen(finite, singles[: len(finite)])
    assert (np.signbit(singles[: len(finite)]) == np.signbit(finite.view(np.float16))).all()

import pytest

from curation.release.merkle import inclusion_proof, root, verify_inclusion

# The vectors of the Certificate Transparency reference implementation (RFC 6962)
ROWS = [bytes.fromhex(row) for row in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("num_rows", range(9))
def test_roots_are_those_of_certificate_transparency(num_rows):
    assert root(ROWS[:num_rows]).hex() == ROOTS[num_rows]


@pytest.mark.parametrize("num_rows", range(1, 9))
def test_a_proof_shows_its_own_row_and_no_other(num_rows):
    rows, expected = ROWS[:num_rows], bytes.fromhex(ROOTS[num_rows])
    for index, row in enumerate(rows):
        proof = inclusion_proof(rows, index)
        assert verify_inclusion(row, index, num_rows, proof, expected)
        assert not verify_inclusion(row + b"!", index, num_rows, proof, expected)
        assert not verify_inclusion(row, index, num_rows, [*proof, bytes(32)], expected)
        assert not verify_inclusion(row, index, num_rows, proof, bytes(32))
        for wrong in set(range(num_rows)) - {index}:
            assert not verify_inclusion(row, wrong, num_rows, proof, expected)
        for n in range(len(proof)):
            assert not verify_inclusion(row, index, num_rows, proof[:n] + proof[n + 1 :], expected)
            flipped = [*proof[:n], bytes([proof[n][0] ^ 1]) + proof[n][1:], *proof[n + 1 :]]
            assert not verify_inclusion(row, index, num_rows, flipped, expected)


def test_an_inner_node_is_no_leaf():
    import hashlib

    left, right = (hashlib.sha256(b"\0" + row).digest() for row in ROWS[:2])
    assert not verify_inclusion(left + right, 0, 1, [], root(ROWS[:2]))


def test_no_such_row():
    with pytest.raises(ValueError, match="row 3"):
        inclusion_proof(ROWS[:3], 3)
    assert not verify_inclusion(ROWS[0], 3, 3, [], bytes(32))

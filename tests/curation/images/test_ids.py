from curation.images.ids import image_id


def test_known_digest():
    # SHA-256 of "abc" from FIPS 180-2, appendix B.1
    assert image_id(b"abc") == "ba7816bf8f01cfea414140de5dae2223"

"""From encoded bytes to pixels: content ids, tar shards, decoding, near-exact hashes."""

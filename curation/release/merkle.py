"""A Merkle tree as RFC 6962 (section 2.1) defines it: leaves and nodes are hashed under different prefixes.

A root of 32 bytes commits to a whole list; a proof of log2(n) hashes shows that one row is in it. The prefixes keep
an inner node from being passed off as a leaf.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence


def leaf_hash(row: bytes) -> bytes:
    """SHA-256(0x00 || row)."""
    return hashlib.sha256(b"\0" + row).digest()


def root(rows: Iterable[bytes]) -> bytes:
    """The root over the rows in order, holding one hash a level; SHA-256 of nothing for no rows."""
    stack: list[tuple[int, bytes]] = []  # (height, hash) of the perfect subtrees so far, heights falling
    for row in rows:
        height, node = 0, leaf_hash(row)
        while stack and stack[-1][0] == height:
            height, node = height + 1, _node(stack.pop()[1], node)
        stack.append((height, node))
    if not stack:
        return hashlib.sha256().digest()
    _, node = stack.pop()
    while stack:
        node = _node(stack.pop()[1], node)
    return node


def inclusion_proof(rows: Sequence[bytes], index: int) -> list[bytes]:
    """The siblings on the way from row ``index`` to the root, lowest first.

    Raises:
        ValueError: there is no such row.
    """
    if not 0 <= index < len(rows):
        raise ValueError(f"row {index} is not among {len(rows)}")
    level = [leaf_hash(row) for row in rows]
    proof = []
    for sibling in _siblings(index, len(level)):
        if sibling is not None:
            proof.append(level[sibling])
        paired = [_node(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]  # the odd one out moves up unchanged
    return proof


def verify_inclusion(row: bytes, index: int, num_rows: int, proof: Sequence[bytes], expected_root: bytes) -> bool:
    """Whether the proof leads from this row, at this index of ``num_rows``, to the root."""
    if not 0 <= index < num_rows:
        return False
    node, rest = leaf_hash(row), list(proof)
    position = index
    for sibling in _siblings(index, num_rows):
        if sibling is not None:
            if not rest:
                return False
            other = rest.pop(0)
            node = _node(node, other) if sibling > position else _node(other, node)
        position //= 2
    return not rest and node == expected_root


def _siblings(index: int, width: int) -> Iterator[int | None]:
    """The sibling's index at every level below the root; None where a node is the odd one out."""
    while width > 1:
        sibling = index ^ 1
        yield sibling if sibling < width else None
        index, width = index // 2, (width + 1) // 2


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()

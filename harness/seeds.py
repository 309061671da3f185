"""Random seeds: every stream derives from (cell, purpose, index), never from a worker's number or the clock."""

from __future__ import annotations

import hashlib


def derive(cell_key: str, purpose: str, index: int = 0) -> int:
    """A seed in [0, 2**63): the first bytes of SHA-256 over the three, so that it fits a signed 64-bit integer.

    >>> derive("avoiding/beso/0", "train") == derive("avoiding/beso/0", "train", 0)
    True
    """
    text = f"{cell_key}\x1f{purpose}\x1f{index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1

"""Reading checkpoints: tensors and plain data, never code, and only what was written."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from zoo.base.files import refuse_odd

DIGESTS = "digests"
"""The key of a checkpoint under which the :func:`digest` of each other key stands."""
PASSING = {
    errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EBUSY, errno.EAGAIN,
    errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP,
}  # fmt: skip
"""Errors of the system that say nothing about what a file holds. (For one that is cut torch raises EINVAL.)"""


class Damaged(Exception):
    """A file does not hold what was written into it; the message says how that shows."""


def digest(value: Any) -> str:
    """SHA-256 of tensors (dtype, shape and bytes, wherever they lie) in plain data: tables by key, lists, values."""
    hasher = sha256()

    def add(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            hasher.update(f"tensor {node.dtype} {tuple(node.shape)}\n".encode())
            hasher.update(node.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(node, Mapping):
            hasher.update(f"table {len(node)}\n".encode())
            for key in sorted(node, key=repr):
                add(key)
                add(node[key])
        elif isinstance(node, list | tuple):
            hasher.update(f"list {len(node)}\n".encode())
            for part in node:
                add(part)
        else:
            text = repr(node).encode(errors="surrogatepass")
            hasher.update(f"value {len(text)}\n".encode() + text)

    add(value)
    return hasher.hexdigest()


def sealed(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint with a digest of each of its values beside them."""
    return {**checkpoint, DIGESTS: {key: digest(value) for key, value in checkpoint.items() if key != DIGESTS}}


def load(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain data; never its code. One without digests is of an earlier version.

    Raises:
        OSError: there is none, it is no plain file, or it may not be read just now.
        Damaged: it is cut, would run code, or holds something else than was written.
    """
    refuse_odd(checkpoint)
    try:
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        digests = saved.get(DIGESTS, {})
        changed = [key for key in saved if key != DIGESTS and digests and digests.get(key) != digest(saved[key])]
        changed += [key for key in digests if key not in saved]
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        said = (str(error).strip() or "no message").splitlines()[0]
        if isinstance(error, MemoryError) or os.strerror(errno.ENOMEM) in said:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(checkpoint)) from error
        raise Damaged(f"{type(error).__name__}: {said}") from error
    if changed:
        raise Damaged(f"the file is damaged: {', '.join(changed)} does not match its digest")
    return saved


def keeper_state(saved: dict[str, Any]) -> dict[str, Any]:
    """What the keeper wrote into a checkpoint: the clock, and the data and precision of the weights."""
    return next((state for name, state in saved["callbacks"].items() if name.startswith("Keeper")), {})

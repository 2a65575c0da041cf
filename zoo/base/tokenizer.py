"""Tokens of text: its bytes, or the entries of a byte-level tokenizer, and how many bytes each of them stands for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import sha256
from typing import Any

from zoo.base.errors import ZooError

PIECE = 2**20
"""Bytes of text that are encoded at once."""


def byte_letters() -> list[str]:
    """The letter that byte-level tokenizers write for each byte, as GPT-2 does: itself where it can be printed."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printed else chr(next(others)) for byte in range(256)]


def bytes_as_json() -> str:
    """The bytes themselves as a tokenizer of the ``tokenizers`` library: token t is byte t."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    model = {"type": "BPE", "vocab": {letter: byte for byte, letter in enumerate(byte_letters())}, "merges": []}
    return json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": level, "decoder": level, "model": model})


class Bytes:
    """Each byte of UTF-8 is a token."""

    vocab_size = 256

    @property
    def json(self) -> str:
        """As a tokenizer of the ``tokenizers`` library."""
        return bytes_as_json()

    @property
    def sizes(self) -> list[int]:
        """Bytes of each token, by its number."""
        return [1] * 256

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return list(text.encode(errors="surrogateescape"))

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 are shown as a replacement character."""
        return bytes(tokens).decode(errors="replace")

    def name(self, token: int) -> str:
        """The character of a token, where the byte is one."""
        return repr(chr(token))[1:-1] if token != 32 else "space"


class Saved:
    """A byte-level tokenizer of the ``tokenizers`` library.

    Args:
        text: its ``tokenizer.json``.
        source: where it comes from, for messages.

    Raises:
        ZooError: it cannot be read, or does not say which bytes its tokens stand for, as only byte-level ones do
            (GPT-2, Llama 3, Qwen, or one that the zoo trained).
    """

    def __init__(self, text: str, source: str) -> None:
        self.json, self.source = text, source
        library = _library()
        try:
            parts = json.loads(text)
            self.inner = library.Tokenizer.from_str(text)
        except Exception as error:  # the library raises Exception itself
            raise ZooError(
                f"{source} is no tokenizer.json of the tokenizers library ({' '.join(str(error).split())[:120]})"
            ) from error
        if not _is_byte_level(parts):
            raise ZooError(
                f"{source} is not a byte-level tokenizer (its decoder is {_type(parts.get('decoder'))}), and bits per "
                f"byte need the bytes of each token; take a byte-level one (GPT-2, Llama 3, Qwen) or tokenizer=bpe"
            )
        self.inner.no_truncation()
        self.inner.no_padding()
        self._added = {token["id"]: token["content"] for token in parts.get("added_tokens") or []}
        self._letters = {number: letters for letters, number in self.inner.get_vocab().items()}
        self.vocab_size = max(self._letters, default=-1) + 1
        if not self.vocab_size:
            raise ZooError(f"{source} has no tokens")

    @cached_property
    def sizes(self) -> list[int]:
        """Bytes of each token, by its number; none where there is no such token."""
        byte_counts = [0] * self.vocab_size
        for number, letters in self._letters.items():
            byte_counts[number] = len(letters.encode()) if number in self._added else len(letters)
        return byte_counts

    @property
    def hash(self) -> str:
        """Of what it does; layout of the file does not count."""
        return sha256(json.dumps(json.loads(self.json), sort_keys=True).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any that starts or ends it."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens; bytes that are no UTF-8 are shown as a replacement character."""
        return str(self.inner.decode(list(tokens), skip_special_tokens=False))

    def name(self, token: int) -> str:
        """The text of one token."""
        return repr(self.decode([token]))[1:-1].replace(" ", "_")

    def encoded(self, pieces: Iterable[bytes]) -> Iterator[list[int]]:
        """The tokens of a text that comes in pieces of whole characters, checked byte by byte.

        Raises:
            ZooError: tokens do not stand for all bytes of the text: it has a symbol that the tokenizer cannot write, or
                the tokenizer changes the text.
        """
        sizes, done = self.sizes, 0
        for piece in pieces:
            text = piece.decode()
            tokens = self.encode(text)
            if sum(sizes[token] for token in tokens) != len(piece):
                raise ZooError(f"{self.source} does not fit the text: {self._misfit(text, done)}")
            done += len(piece)
            yield tokens

    def _misfit(self, text: str, before: int) -> str:
        """The first line of a text whose tokens have other bytes than it, and the first symbol there that is lost."""
        for line in text.splitlines(keepends=True):
            if sum(self.sizes[token] for token in self.encode(line)) != len(line.encode()):
                lost = next((c for c in line if self.decode(self.encode(c)) != c), None)
                if lost is not None:
                    return f"it cannot write {lost!r}, in the line at byte {before}"
                return f"it changes the line at byte {before}, {line[:40]!r}"
            before += len(line.encode())
        return "it changes the text where lines meet"


def from_json(text: str, source: str) -> Bytes | Saved:
    """The tokenizer that :attr:`Bytes.json` or :attr:`Saved.json` was written of.

    Raises:
        ZooError: as :class:`Saved`.
    """
    return Bytes() if text == bytes_as_json() else Saved(text, source)


def trained(pieces: Iterable[bytes], vocab_size: int) -> Saved:
    """A byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) trained on a text.

    Words are split as GPT-2 does. All 256 bytes are tokens, so every text can be written.

    Args:
        pieces: the text, in pieces of whole characters.
        vocab_size: tokens in all, at least 257.
    """
    library = _library()
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = library.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    inner.train_from_iterator((piece.decode() for piece in pieces), trainer)
    return Saved(inner.to_str(), "the BPE trained here")


def whole_characters(pieces: Iterable[bytes], source: str, size: int = PIECE) -> Iterator[bytes]:
    """A text in pieces of about ``size`` bytes that end behind a line where there is one, and never in a character.

    At most three bytes at the start and at the end of the text are left out, where it was cut within a character.

    Raises:
        ZooError: it is not UTF-8; the message names the first byte that is wrong.
    """
    held, done, first = b"", 0, True
    for piece in pieces:
        held += piece
        if first and len(held) >= 4:
            start = next((i for i in range(4) if held[i] & 0xC0 != 0x80), 4)
            held, done, first = held[start:], done + start, False
        while len(held) >= size:
            line = held.rfind(b"\n", 0, size) + 1
            end = line or _character_end(held, size)
            _check(held[:end], source, done)
            yield held[:end]
            held, done = held[end:], done + end
    end = _character_end(held, len(held))
    if end:
        _check(held[:end], source, done)
        yield held[:end]


def _character_end(data: bytes, end: int) -> int:
    """The largest number of bytes up to ``end`` that does not cut a character; ``end`` where it is no UTF-8."""
    for back in range(1, min(4, end) + 1):
        byte = data[end - back]
        if byte & 0xC0 != 0x80:
            length = 1 if byte < 0x80 else 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4
            return end if length <= back else end - back
    return end


def _check(data: bytes, source: str, before: int) -> None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ZooError(
            f"{source} is not UTF-8 (byte {before + error.start}), which a tokenizer reads; convert it, such as: "
            f"iconv -f latin1 -t utf-8, or take its bytes as they are: task.tokenizer=bytes"
        ) from error


def _is_byte_level(parts: Any) -> bool:
    """Whether each letter of a token stands for a byte."""
    if not isinstance(parts, dict):
        return False
    decoder = parts.get("decoder") or {}
    every = [decoder, *(decoder.get("decoders") or [])]
    return any(_type(each) == "ByteLevel" for each in every)


def _type(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else "none"


def _library() -> Any:
    os.environ.setdefault(
        "TOKENIZERS_PARALLELISM", "false"
    )  # a process is forked later, and has one thread as a worker
    try:
        import tokenizers
    except ImportError as error:
        raise ZooError(
            'a tokenizer needs the tokenizers library: pip install -e ".[tokenizers]", in the folder of the zoo'
        ) from error
    return tokenizers

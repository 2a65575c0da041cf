"""The face that EleutherAI's lm-evaluation-harness sees of a model here. Importing it imports the harness."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from zoo.base.errors import ZooError
from zoo.base.tokenizer import Bytes, Saved
from zoo.models.decoding import generate

WRITTEN = 256
"""The most tokens to write where a task does not say, as in the harness."""


class Adapter(TemplateLM):  # type: ignore[misc]
    """A causal model: its whole pass for log-likelihoods, its steps for what it writes."""

    def __init__(
        self, model: Any, tokenizer: Bytes | Saved, max_length: int, batch_size: int, tokens: int | None
    ) -> None:
        super().__init__()
        self.inner, self.text, self.max_length = model.eval(), tokenizer, max_length
        self.batch_size, self.tokens = batch_size, tokens
        self._device = next(model.parameters()).device

    @property
    def eot_token_id(self) -> int:
        """The end of a line."""
        return self.text.encode("\n")[0]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        return self.text.encode(string)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: Sequence[Any], **more: Any) -> list[tuple[float, bool]]:
        rows = [(self._last_that_fit(before, after), after) for _, before, after in requests]
        scores_by_index: dict[int, tuple[float, bool]] = {}
        by_length = sorted(range(len(rows)), key=lambda index: -len(rows[index][0]))
        for chosen in _parts(by_length, self.batch_size):
            longest = len(rows[chosen[0]][0])
            padded = [rows[index][0] + [0] * (longest - len(rows[index][0])) for index in chosen]
            inputs_BL = torch.tensor(padded, device=self._device)
            logits_BLC = self.inner({"inputs": inputs_BL, "targets": inputs_BL})["logits"].float()
            for row_LC, index in zip(logits_BLC.log_softmax(-1), chosen, strict=True):
                scores_by_index[index] = _scored(row_LC, *rows[index])
        return [scores_by_index[index] for index in range(len(rows))]

    def _last_that_fit(self, before: list[int], after: list[int]) -> list[int]:
        """What is read to score ``after``: all but its last token, without the start of what is too long.

        Raises:
            ZooError: there is nothing to score, or more than the model reads.
        """
        if not after:
            raise ZooError("a task has an answer of no tokens, which has no probability")
        if len(after) > self.max_length:
            raise ZooError(
                f"a task has an answer of {len(after)} tokens, and the model reads {self.max_length}; train one "
                f"with a larger task.length"
            )
        return (before + after)[-(self.max_length + 1) :][:-1]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        windows, owner = [], []
        for index, request in enumerate(requests):
            for pair in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(pair)))
                owner.append(index)
        totals = [0.0] * len(requests)
        for index, (score, _) in zip(owner, self._loglikelihood_tokens(windows), strict=True):
            totals[index] += score
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        # prompts of one length and one set of options go together: no mixer then needs a mask
        groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        asked = [self._asked(dict(request.args[1])) for request in requests]
        prompts = [
            self.text.encode(request.args[0])[-(self.max_length - many) :] or [self.prefix_token_id]
            for request, (_, many, _) in zip(requests, asked, strict=True)
        ]
        for index, prompt in enumerate(prompts):
            groups[len(prompt), repr(asked[index])].append(index)
        texts_by_index: dict[int, str] = {}
        for members in groups.values():
            until, many, temperature = asked[members[0]]
            for chosen in _parts(members, self.batch_size):
                written = generate(
                    self.inner,
                    [prompts[index] for index in chosen],
                    many,
                    temperature=temperature,
                    stop=_stops(self.text, until),
                )
                for index, row in zip(chosen, written, strict=True):
                    said = self.text.decode(row)
                    texts_by_index[index] = postprocess_generated_text(said, stop=until, think_end_token=None)
        return [texts_by_index[index] for index in range(len(requests))]

    def _asked(self, options: dict[str, Any]) -> tuple[list[str], int, float]:
        """Where to stop, the most tokens, and the temperature.

        Raises:
            ZooError: nothing would be left of the model's context, or an option has no counterpart.
        """
        given = normalize_gen_kwargs(options, WRITTEN)
        until = handle_stop_sequences(given.pop("until", None), eos=None)
        many = int(given.pop("max_gen_toks"))
        many = many if self.tokens is None else min(many, self.tokens)
        temperature = float(given.pop("temperature", 0.0)) if given.pop("do_sample", False) else 0.0
        given.pop("temperature", None)
        others = {name: value for name, value in given.items() if value not in (None, 1, False)}
        if others:
            raise ZooError(
                f"a task asks to write with {', '.join(others)}; known are until, max_gen_toks and temperature"
            )
        if many >= self.max_length:
            raise ZooError(
                f"a task asks for up to {many} tokens, and the model reads {self.max_length}, question included; "
                f"let it write fewer, such as --tokens {max(1, self.max_length // 2)}"
            )
        return until, many, temperature


def _parts(indices: list[int], most: int) -> Iterator[list[int]]:
    return (indices[first : first + most] for first in range(0, len(indices), most))


def _scored(row_LC: Tensor, read: list[int], after: list[int]) -> tuple[float, bool]:
    """The log-probability of ``after``, whose tokens but the last end what was read, and whether each was likeliest."""
    row_NC = row_LC[len(read) - len(after) : len(read)]
    wanted_N = torch.tensor(after, device=row_NC.device)
    greedy = bool((row_NC.argmax(-1) == wanted_N).all())
    return row_NC.gather(1, wanted_N[:, None]).sum().item(), greedy


def _stops(tokenizer: Bytes | Saved, until: list[str]) -> Callable[[list[int]], bool] | None:
    """Whether a continuation holds one of these texts by now; only its end can be new."""
    if not any(until):
        return None
    longest = max(len(text.encode()) for text in until) + 4  # a token has at least one byte; a character, at most four
    return lambda row: any(text in tokenizer.decode(row[-longest:]) for text in until if text)

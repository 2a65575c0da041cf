"""Decoding by a model's steps: the likeliest token each time, a draw, or several continuations kept side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.nn import select_rows

Scored = tuple[list[int], float]
"""A continuation without its end, and its score."""


@torch.no_grad()
def generate(
    model: Any,
    prompts: list[list[int]],
    tokens: int,
    start: int | None = None,
    end: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    stop: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue each prompt by the likeliest token each time, or by draws of a softmax at a temperature.

    Args:
        model: an objective that decodes: it has ``init_state`` and ``step``, and ``read`` where it has an encoder,
            which then reads the prompts.
        prompts: tokens; of unlike lengths they are padded and masked.
        tokens: at most so many for each.
        start: put behind the prompt, or at the start of what a decoder writes.
        end: ends a continuation, of which it is no part.
        temperature: 0 takes the likeliest.
        seed: of the draws.
        stop: asked of each continuation after each token; one that it is true of grows no more.
    """
    logits_BC, state = _open(model, prompts, tokens, start)
    source = torch.Generator(logits_BC.device).manual_seed(seed)
    written = torch.empty(len(prompts), 0, dtype=torch.long, device=logits_BC.device)
    lengths: list[int | None] = [None] * len(prompts)  # of those that are stopped
    ended_B = torch.zeros(len(prompts), dtype=torch.bool, device=logits_BC.device)
    for count in range(1, tokens + 1):
        if temperature > 0:
            scaled_BC = (logits_BC.double() - logits_BC.amax(-1, keepdim=True)) / temperature
            next_B1 = scaled_BC.softmax(-1).multinomial(1, generator=source)
        else:
            next_B1 = logits_BC.argmax(-1, keepdim=True)
        written = torch.cat([written, next_B1], 1)
        ended_B = ended_B | (next_B1[:, 0] == end) if end is not None else ended_B
        if stop is not None:
            for row, tokens_so_far in enumerate(written.tolist()):
                if lengths[row] is None and stop(tokens_so_far):
                    lengths[row] = count
        if count == tokens or ended_B.all() or None not in lengths:
            break
        logits_BLC, state = model.step(next_B1, state)
        logits_BC = logits_BLC[:, -1]
    return [_without_end(row[:length], end) for row, length in zip(written.tolist(), lengths, strict=True)]


@torch.no_grad()
def unmask(
    model: Any, prompts: list[list[int]], tokens: int, temperature: float = 0.0, seed: int = 0, steps: int | None = None
) -> list[list[int]]:
    """Continue each prompt by filling in hidden tokens, as a masked diffusion model does.

    All new positions start hidden. Each step predicts them all at once. At a temperature, positions are shown in a
    random order, each with a draw of the softmax: with a step for each token that is the reverse process of the
    diffusion (ancestral sampling; Sahoo et al. 2024, arXiv:2406.07524, section 3.2.2, its order drawn ahead). At
    temperature 0 it shows the likeliest tokens where the model is surest (Chang et al. 2022, "MaskGIT",
    arXiv:2202.04200, section 3.2).

    A model of block diffusion writes one block after the other in this way (Arriola et al. 2025, arXiv:2503.09573,
    section 3.3). The last one is written whole, as it was trained, and then cut.

    Args:
        model: an objective with ``mask_token`` and ``predict(inputs_BL)``, logits (B, L, C) at every position. One that
            writes in blocks also has their length ``block``, and its longest sequence as ``stem.max_len``.
        prompts: tokens; those of one length are written from together.
        tokens: so many for each.
        temperature: 0 takes the likeliest.
        seed: of the draws.
        steps: passes of the model, over which the positions are spread evenly, at least one for each block; by default
            one for each token.
    """
    steps = tokens if steps is None else min(steps, tokens)
    if tokens < 1 or steps < 1:
        raise ValueError(f"{tokens} tokens in {steps} steps; expected at least 1 of both")
    device = next(model.parameters()).device
    source = torch.Generator(device).manual_seed(seed)
    continuations: dict[int, list[int]] = {}
    for length in sorted({len(prompt) for prompt in prompts}):
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        text_BL, left = torch.tensor([prompts[row] for row in rows], dtype=torch.long, device=device), steps
        while text_BL.shape[1] < length + tokens:
            begin = text_BL.shape[1]
            many = _end_of_block(model, begin, length + tokens) - begin
            text_BL = torch.nn.functional.pad(text_BL, (0, many), value=model.mask_token)
            # a share of the passes that are left, as this block's of the tokens that are left
            wanted = length + tokens - begin
            passes = max(1, min(many, left * min(many, wanted) // wanted))
            _fill_in(model, text_BL, begin, passes, temperature, source)
            left -= passes
        continuations |= dict(zip(rows, text_BL[:, length : length + tokens].tolist(), strict=True))
    return [continuations[row] for row in range(len(prompts))]


def _end_of_block(model: Any, begin: int, end: int) -> int:
    """Where the block of this position ends; the end of the text if a model has no blocks, or knows no longer one."""
    block: int | None = getattr(model, "block", None)
    if block is None:
        return end
    longest: int = model.stem.max_len
    return min(begin // block * block + block, max(end, longest))


def _fill_in(model: Any, text_BL: Tensor, begin: int, steps: int, temperature: float, source: torch.Generator) -> None:
    """Fill in the tokens from ``begin`` on, all of them hidden, in so many steps; see :func:`unmask`."""
    many = text_BL.shape[1] - begin
    order_BT = torch.rand(len(text_BL), many, generator=source, device=text_BL.device)
    for step in range(steps):
        logits_BTC = model.predict(text_BL)[:, begin:].double()
        hidden_BT = text_BL[:, begin:] == model.mask_token
        if temperature > 0:
            flat = (logits_BTC / temperature).softmax(-1).flatten(0, 1)
            drawn_BT = flat.multinomial(1, generator=source).view_as(hidden_BT)
            rank_BT = order_BT
        else:
            rank_BT, drawn_BT = logits_BTC.softmax(-1).max(-1)
        # at so many of the hidden positions, the first by rank, the token is shown
        shown = (step + 1) * many // steps - step * many // steps
        show_BS = rank_BT.masked_fill(~hidden_BT, -torch.inf).topk(shown, -1).indices
        text_BL.scatter_(1, show_BS + begin, drawn_BT.gather(1, show_BS))


@torch.no_grad()
def beam_search(
    model: Any,
    prompts: list[list[int]],
    tokens: int,
    start: int | None = None,
    end: int | None = None,
    beams: int = 4,
    length_penalty: float = 0.6,
) -> list[list[Scored]]:
    """The best continuations of each prompt, best first, by keeping ``beams`` of them at each length.

    A finished one of n tokens, its end among them, scores its log-probability over ``((5 + n) / 6)^length_penalty`` (Wu
    et al. 2016, arXiv:1609.08144, equation 14). Without an ``end`` all have the same length. Arguments are those of
    :func:`generate`.
    """
    if beams < 1:
        raise ValueError(f"{beams} beams; expected at least 1")
    logits_BC, state = _open(model, prompts, tokens, start)
    B, device = len(prompts), logits_BC.device
    rows_N = torch.arange(B, device=device).repeat_interleave(beams)
    state, logits_NC = select_rows(state, rows_N), logits_BC[rows_N]
    score_BK = torch.full((B, beams), -torch.inf, dtype=torch.float64, device=device)
    score_BK[:, 0] = 0.0  # all beams of a prompt begin alike, so one of them speaks
    written_BKT = torch.empty(B, beams, 0, dtype=torch.long, device=device)
    finished: list[list[Scored]] = [[] for _ in prompts]
    for count in range(1, tokens + 1):
        step_BKC = logits_NC.double().log_softmax(-1).view(B, beams, -1)
        every_BKC = score_BK.unsqueeze(-1) + step_BKC
        if end is not None:
            _finish(finished, every_BKC[..., end], written_BKT, _penalty(count, length_penalty))
            every_BKC[..., end] = -torch.inf
        C = every_BKC.shape[-1]
        score_BK, pick_BK = _top(every_BKC.flatten(1), beams)
        from_BK = pick_BK // C
        written_BKT = torch.cat(
            [written_BKT.gather(1, from_BK.unsqueeze(-1).expand(-1, -1, count - 1)), pick_BK.unsqueeze(-1) % C], 2
        )
        if count == tokens or (end is not None and _decided(finished, score_BK, beams, tokens, length_penalty)):
            break
        rows_N = (torch.arange(B, device=device).unsqueeze(1) * beams + from_BK).flatten()
        logits_NLC, state = model.step(written_BKT[..., -1].reshape(-1, 1), select_rows(state, rows_N))
        logits_NC = logits_NLC[:, -1]
    if end is None or count == tokens:  # what has no end by now is as long as it may be
        _finish(finished, score_BK, written_BKT, _penalty(count, length_penalty))
    return [sorted(continuations, key=lambda scored: -scored[1])[:beams] for continuations in finished]


def _open(model: Any, prompts: list[list[int]], tokens: int, start: int | None) -> tuple[Tensor, Any]:
    """Logits of the first token to write, (B, C), and the state after the prompts."""
    parameter = next(model.parameters())
    device, dtype, encodes = parameter.device, parameter.dtype, hasattr(model, "read")
    if not encodes and start is not None:
        prompts = [[*prompt, start] for prompt in prompts]
    length = max(map(len, prompts))
    if not length:
        raise ValueError("a prompt of no tokens; expected at least one")
    ragged = any(len(prompt) != length for prompt in prompts)
    pads = [[0] * (length - len(prompt)) for prompt in prompts]
    # padding stands behind what an encoder reads, and in front of what a decoder goes on from
    rows = [p + pad if encodes else pad + p for p, pad in zip(prompts, pads, strict=True)]
    masks = [[True] * len(p) + [False] * len(pad) for p, pad in zip(prompts, pads, strict=True)]
    tokens_BL = torch.tensor(rows, device=device)
    mask_BL = torch.tensor([m if encodes else m[::-1] for m in masks], device=device) if ragged else None
    state = model.init_state(len(prompts), tokens if encodes else length + tokens, device, dtype)
    if encodes:
        state = model.read(tokens_BL, state, mask_BL)
        tokens_BL, mask_BL = torch.full((len(prompts), 1), 0 if start is None else start, device=device), None
    logits_BLC, state = model.step(tokens_BL, state, *([] if mask_BL is None else [mask_BL]))
    return logits_BLC[:, -1], state


def _penalty(count: int, power: float) -> float:
    return float(((5 + count) / 6) ** power)


def _finish(finished: list[list[Scored]], score_BK: Tensor, written_BKT: Tensor, penalty: float) -> None:
    for continuations, scores, rows in zip(finished, (score_BK / penalty).tolist(), written_BKT.tolist(), strict=True):
        continuations += [(row, score) for score, row in zip(scores, rows, strict=True) if score > -torch.inf]


def _top(every_BN: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """The best, padded with impossible ones where there are fewer."""
    value_BK, index_BK = every_BN.topk(min(beams, every_BN.shape[1]), dim=1)
    missing = beams - value_BK.shape[1]
    pad = torch.nn.functional.pad
    return pad(value_BK, (0, missing), value=-torch.inf), pad(index_BK, (0, missing))


def _decided(finished: list[list[Scored]], score_BK: Tensor, beams: int, tokens: int, power: float) -> bool:
    """Whether nothing that goes on can still be among the best: it would have to score at least as it does now."""
    best_possible = (score_BK.amax(1) / _penalty(tokens, power)).tolist()
    kept = [sorted((score for _, score in continuations), reverse=True)[:beams] for continuations in finished]
    return all(len(k) == beams and k[-1] >= best for k, best in zip(kept, best_possible, strict=True))


def _without_end(row: list[int], end: int | None) -> list[int]:
    return row[: row.index(end)] if end is not None and end in row else row

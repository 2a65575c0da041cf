"""Brevo: all nodes that a node of a graph depends on, in an order in which each follows what it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.base.contracts import Batch
from zoo.base.errors import ZooError
from zoo.base.seeds import generator, tenth_of
from zoo.registry.registry import register
from zoo.tasks._generated import DRAWS, TokenAnswers, at_least_one, of_rung
from zoo.tasks._metrics import Ratios, nats

RUNGS: dict[str, tuple[int, int]] = {  # length, names
    "small": (8, 16),
    "medium": (16, 32),
    "large": (64, 128),
}
FEWEST = 3
"""Nodes of the smallest graph in training, as published."""
FEW_NAMES = 11
"""With fewer names some graphs have so few namings that all may be of another split: of three nodes, 360 with ten."""
NAMINGS, NAMINGS_OF_A_TEST = 16, 8
"""Namings of a graph that are tried. In training eight in ten are its own, in a test one in ten."""
MODULUS = 2_147_483_647


@register("task", "brevo")
class Brevo(TokenAnswers):
    """Name all nodes that a node of a graph depends on, in an order in which each comes after its own parents.

    Allen-Zhu 2025, "Physics of language models: part 4.1", arXiv:2512.17351, task Brevo, here with nodes of one token
    and smaller graphs. A sequence is the edges of a graph without cycles in random order, each a parent and a child;
    then ``?``, the last node, and ``=``. The answer is every node from which the last one can be reached, itself at the
    end, and an end mark. Any order is right in which no node comes before one of its parents; training shows a random
    one. Which nodes are needed is known only from the far end, but in small graphs nearly all are: there a rule without
    any search is often right, see ``chance``. Runs are ranked by answers without a mistake, and ``first_accuracy`` is
    of the first node. Each step is judged behind a right beginning. A hash of the edges and of what is asked decides
    the split, so none is trained on and tested.

    Graphs are drawn as the author's code does. Of n nodes in a row the first 1 to ``(n - 1) // 4 + 1`` have no parents.
    Each other one has 1 to ``edges``, drawn from the nodes before that have fewer than ``edges`` children. In training
    n is 3 to ``length``, with a probability in proportion to ``1 / (n + sqrt(length))``; tests ask graphs of
    ``length`` nodes.

    Args:
        rung: a set of defaults for ``length`` and ``names``, from ``small`` to ``large``.
        length: most nodes of a graph in training. By default the rung's.
        names: number of tokens for nodes. By default the rung's.
        edges: most parents of a node, and most children; 4 as published.
        batch_size: number of graphs per training batch.
        test_lengths: further values of ``length`` to test, under ``test/LENGTH``. By default 1.5 times and twice the
            training length.
        test_size: number of graphs in validation and in each test.
    """

    stream = "brevo"
    metric = "sequence_accuracy"

    def __init__(
        self,
        rung: Literal["small", "medium", "large"] = "small",
        length: int | None = None,
        names: int | None = None,
        edges: int = 4,
        batch_size: int = 64,
        test_lengths: list[int] | None = None,
        test_size: int = 500,
    ) -> None:
        length, self.names = of_rung(RUNGS[rung], length, names)
        self._set_sizes(length, test_lengths, batch_size, test_size, further=[length + -(-length // 2), 2 * length])
        self.edges = edges
        at_least_one(edges=edges)
        shortest = min([self.length, *self.test_lengths])
        if shortest < FEWEST:
            raise ZooError(f"task.length={shortest}: expected at least {FEWEST} nodes")
        if self.names < self._longest():
            raise ZooError(f"task.names={self.names}: a graph of {self._longest()} nodes has as many names")

    def facts(self) -> dict[str, Any]:
        """Nodes, marks and padding in; nodes and the end mark out."""
        longest = 2 * self._most_edges(self._longest()) + 3 + self._longest()
        return {"vocab_size": self.names + 4, "classes": self.names + 1, "max_len": longest}

    def token_name(self, token: int) -> str:
        """A node, a mark or padding."""
        return str(token) if token < self.names else ("end", "?", "=", "pad")[token - self.names]

    def judge(self, outputs: Mapping[str, Tensor], batch: Batch) -> Ratios:
        """The share of right steps, of answers whose steps are all right, and of right first nodes; and nats."""
        asked_BS = batch["targets"] >= 0
        said_BS1 = outputs["logits"].argmax(-1, keepdim=True)
        right_BS = batch["allowed"].gather(2, said_BS1).squeeze(2) & asked_BS
        asks_B = asked_BS.any(1)
        return {
            "accuracy": (right_BS.sum(), asked_BS.sum()),
            "sequence_accuracy": (((right_BS | ~asked_BS).all(1) & asks_B).sum(), asks_B.sum()),
            "first_accuracy": (right_BS[:, 0].sum(), asked_BS[:, 0].sum()),
            "nats": nats(outputs, batch["targets"]),
        }

    def chance(self) -> dict[str, float]:
        """Guessing each step; and without a search, any node that has a child and whose parents were named.

        That rule takes the asked node as soon as it may. It knows nothing of whether a node leads to the asked one.
        """
        source = generator("cpu", self.stream, "chance")
        parents_BNN, rank_BN = self._draw(torch.full((2000,), self.length), self.length, source)
        number_N = torch.arange(self.length)
        parent_BN, asked_BN = parents_BNN.any(1), (number_N == self.length - 1).expand_as(rank_BN)
        latest_BN = self._latest(parents_BNN, rank_BN)
        guessed_B, ready_B = (torch.ones(len(rank_BN), dtype=torch.double) for _ in range(2))
        for step in range(self.length):
            ready_BN = (parent_BN | asked_BN) & (rank_BN >= step) & (latest_BN < step)
            right_B = (ready_BN & (rank_BN < self.length)).sum(1)
            goes_on_B = right_B > 0
            ready_BN = ready_BN & (asked_BN | ~(ready_BN & asked_BN).any(1, keepdim=True))
            guessed_B *= (right_B / (self.names + 1)).where(goes_on_B, 1.0)
            ready_B *= ((ready_BN & (rank_BN < self.length)).sum(1) / ready_BN.sum(1).clamp(min=1)).where(
                goes_on_B, 1.0
            )
        return {
            "guessing": float(guessed_B.mean()) / (self.names + 1),
            "any parent whose own parents were named": float(ready_B.mean()),
        }

    def _of_split(self, split: str, batch_size: int, length: int, source: torch.Generator) -> Batch:
        """Graphs of any size up to the length in training, of the length itself in tests."""
        if split != "train":
            return self._ask(torch.full((batch_size,), length), length, source, split)
        size_N = torch.arange(FEWEST, length + 1, device=source.device)
        nodes_B = size_N[(1 / (size_N + length**0.5)).multinomial(batch_size, True, generator=source)]
        return self._ask(nodes_B, length, source, split)

    def _ask(self, nodes_B: Tensor, length: int, source: torch.Generator, split: str) -> Batch:
        """Graphs of so many nodes, in the shape of those of ``length``."""
        device, batch_size = source.device, len(nodes_B)
        end, ask, equals, pad = (self.names + offset for offset in range(4))
        parents_BNN, rank_BN, which_BE, name_BN = self._of_its_own(nodes_B, length, source, split)
        many_B1 = (rank_BN < length).sum(1, keepdim=True)
        edge_BE = parents_BNN.flatten(1)
        pair_BE2 = torch.stack([name_BN.gather(1, which_BE % length), name_BN.gather(1, which_BE // length)], 2)
        pair_BE2 = pair_BE2.where(edge_BE.gather(1, which_BE).unsqueeze(2), pad)
        # the nodes by their position in the answer; behind them the end
        step_S = torch.arange(length + 1, device=device)
        answer_BS = torch.full((batch_size, length + 1), pad, device=device)
        answer_BS = answer_BS.scatter(1, rank_BN, name_BN)  # those that are not needed share the last column
        targets_BS = answer_BS.where(step_S < many_B1, -100).masked_fill(step_S == many_B1, end)
        # question and answer begin where the edges end
        start_B1 = 2 * edge_BE.sum(1, keepdim=True)
        last_B1 = name_BN.gather(1, nodes_B[:, None] - 1)
        marks = [torch.full_like(last_B1, ask), last_B1, torch.full_like(last_B1, equals)]
        told_BT = torch.cat([*marks, answer_BS[:, :length].where(step_S[:length] < many_B1, pad)], 1)
        inputs_BL = torch.cat([pair_BE2.flatten(1), torch.full_like(told_BT, pad)], 1)
        inputs_BL = inputs_BL.scatter(1, start_B1 + torch.arange(told_BT.shape[1], device=device), told_BT)
        return {
            "inputs": inputs_BL,
            "targets": targets_BS,
            "positions": start_B1 + 2 + step_S,
            "allowed": self._allowed(parents_BNN, rank_BN, name_BN),
        }

    def _of_its_own(self, nodes_B: Tensor, length: int, source: torch.Generator, split: str) -> tuple[Tensor, ...]:
        """Graphs of this split as :meth:`_draw` makes them, their edges in random order (B, E), and names (B, N).

        Raises:
            ZooError: none was found.
        """
        *graphs, fits_B = self._tried(nodes_B, length, source, split)
        if split == "train" and self.names >= FEW_NAMES:  # once in 10^11 none fits, and a GPU is not waited for
            return tuple(graphs)
        for _ in range(DRAWS):
            left_L = (~fits_B).nonzero().flatten()
            if not len(left_L):
                return tuple(graphs)
            *again, now_L = self._tried(nodes_B[left_L], length, source, split)
            for old, new in zip(graphs, again, strict=True):
                old[left_L] = new
            fits_B[left_L] = now_L
        raise ZooError(
            f"task.names={self.names}: there are too few graphs to keep those of tests apart; expected more names"
        )

    def _tried(self, nodes_B: Tensor, length: int, source: torch.Generator, split: str) -> tuple[Tensor, ...]:
        """As :meth:`_of_its_own`, and whether each is of this split (B,): of several namings the first that is, if any.

        A hash of the named edges, whatever their order, and of the asked node decides it.
        """
        device, batch_size = source.device, len(nodes_B)
        namings = NAMINGS if split == "train" else NAMINGS_OF_A_TEST
        parents_BNN, rank_BN = self._draw(nodes_B, length, source)
        # edges in random order, those that are none behind them
        edge_BE = parents_BNN.flatten(1)
        key_BE = torch.rand(edge_BE.shape, generator=source, device=device).masked_fill(~edge_BE, 2.0)
        which_BE = key_BE.argsort(1)[:, : self._most_edges(length)]
        drawn_BTV = torch.rand(batch_size, namings, self.names, generator=source, device=device)
        name_BTN = drawn_BTV.topk(length, dim=2).indices

        def named(node_BE: Tensor) -> Tensor:
            return name_BTN.gather(2, node_BE.unsqueeze(1).expand(-1, namings, -1))

        # a sum over edges, of numbers in which parent and child are mixed
        mixed_BTE = (named(which_BE % length) * self.names + named(which_BE // length) + 1) * 1_000_003 % MODULUS
        mixed_BTE = ((mixed_BTE >> 15) ^ mixed_BTE) * 48_271 % MODULUS
        sum_BT = mixed_BTE.where(edge_BE.gather(1, which_BE).unsqueeze(1), 0).sum(2) % MODULUS
        tenth_BT = tenth_of(torch.stack([sum_BT, named(nodes_B[:, None] - 1).squeeze(2)], 2))
        fits_BT = tenth_BT >= 2 if split == "train" else tenth_BT == int(split != "validation")
        first_B = fits_BT.byte().argmax(1)
        name_BN = name_BTN[torch.arange(batch_size, device=device), first_B]
        return parents_BNN, rank_BN, which_BE, name_BN, fits_BT.any(1)

    def _draw(self, nodes_B: Tensor, length: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Who is a parent of whom (B, child, parent), and each node's position in the answer (B, N), else ``length``.

        The asked node is the last one, number ``nodes_B - 1``.
        """
        device, batch_size = source.device, len(nodes_B)

        def up_to(most_B: Tensor) -> Tensor:
            """A number from 1 to each of these."""
            drawn_B = torch.rand(batch_size, generator=source, device=device) * most_B
            return (1 + drawn_B.long()).minimum(most_B)

        # parents of one node after the other, among those before it that may have one more child
        number_N = torch.arange(length, device=device)
        parents_BNN = torch.zeros(batch_size, length, length, dtype=torch.bool, device=device)
        children_BN = torch.zeros(batch_size, length, dtype=torch.long, device=device)
        most = min(self.edges, length)
        without_B = up_to((nodes_B - 1) // 4 + 1)
        for child in range(1, length):
            free_BN = (number_N < child) & (children_BN < self.edges)
            many_B = up_to(free_BN.sum(1).clamp(max=self.edges)).where((without_B <= child) & (child < nodes_B), 0)
            order_BN = torch.rand(batch_size, length, generator=source, device=device).masked_fill(~free_BN, 2.0)
            which_BE = order_BN.topk(most, dim=1, largest=False).indices
            parents_BNN[:, child].scatter_(1, which_BE, number_N[:most] < many_B[:, None])
            children_BN = children_BN + parents_BNN[:, child]
        # what the last node depends on
        needed_BN = number_N == nodes_B[:, None] - 1
        for child in reversed(range(1, length)):
            needed_BN = needed_BN | (parents_BNN[:, child] & needed_BN[:, child, None])
        # from the last node backwards, any node all of whose needed children were taken
        many_B1, left_BN = needed_BN.sum(1, keepdim=True), needed_BN
        waits_BN = (parents_BNN & needed_BN.unsqueeze(2)).sum(1)  # how many needed children are left
        rank_BN = torch.full_like(children_BN, length)
        for step in range(length):
            ready_BN = left_BN & (waits_BN == 0)
            draw_BN = torch.rand(batch_size, length, generator=source, device=device).masked_fill(~ready_BN, -1.0)
            pick_B1 = draw_BN.argmax(1, keepdim=True)
            taken_BN = ready_BN & (number_N == pick_B1)
            rank_BN, left_BN = (many_B1 - 1 - step).where(taken_BN, rank_BN), left_BN & ~taken_BN
            spared_BN = parents_BNN.gather(1, pick_B1[..., None].expand(-1, 1, length)).squeeze(1)
            waits_BN = waits_BN - (spared_BN & taken_BN.any(1, keepdim=True)).long()
        return parents_BNN, rank_BN

    def _latest(self, parents_BNN: Tensor, rank_BN: Tensor) -> Tensor:
        """The position of each node's last parent in the answer, (B, N), -1 for a node without parents."""
        return rank_BN.unsqueeze(1).where(parents_BNN, -1).amax(2)

    def _allowed(self, parents_BNN: Tensor, rank_BN: Tensor, name_BN: Tensor) -> Tensor:
        """Which answers are right at each step, given the answer before it, (B, S, C)."""
        length = rank_BN.shape[1]
        step_S1 = torch.arange(length + 1, device=rank_BN.device)[:, None]
        needed_B1N = (rank_BN < length).unsqueeze(1)
        latest_B1N = self._latest(parents_BNN, rank_BN).unsqueeze(1)
        ready_BSN = needed_B1N & (rank_BN.unsqueeze(1) >= step_S1) & (latest_B1N < step_S1)
        ends_BS1 = needed_B1N.sum(2, keepdim=True) == step_S1
        nobody_BSC = ready_BSN.new_zeros(*ready_BSN.shape[:2], self.names)
        named_BSC = nobody_BSC.scatter(2, name_BN.unsqueeze(1).expand_as(ready_BSN), ready_BSN)
        return torch.cat([named_BSC, ends_BS1], 2)

    def _most_edges(self, length: int) -> int:
        """How many edges a graph of so many nodes has at most."""
        return sum(min(node, self.edges) for node in range(1, length))

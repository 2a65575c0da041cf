"""Experts that choose their tokens, instead of tokens their experts."""

import math

import torch
from torch import Tensor, nn

from zoo.nn import is_counting, is_recomputing, project, sum_over_processes

from .balance import SideLosses, logit_size
from .linears import Rows, run


class ExpertChoice(nn.Module):
    """Each expert takes, from each sequence, the ``K * L / E`` tokens with the highest probability for it.

    Zhou et al. 2022, arXiv:2202.09368, within each sequence, so that examples do not depend on each other. All experts
    are equally busy without a loss. A token may meet many experts or none. Which tokens are taken depends on the whole
    sequence, later tokens included, so this is for encoders only. Results are added with scatters, whose order on a GPU
    varies.
    """

    takes_mask = True
    couples_tokens = "with ffn.gate=expert_choice an expert picks from the whole sequence"

    def __init__(
        self, projection: nn.Module, rows: Rows, body: nn.Module, shared: nn.ModuleList, layer: int, experts: int,
        choices: int, z_loss: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.projection, self.rows, self.body, self.shared = projection, rows, body, shared
        self.layer, self.experts, self.choices_each, self.z_loss = layer, experts, choices, z_loss
        self.unserved, self.seen = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        self._losses = SideLosses()

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D). Padding is never taken."""
        B, L, D = x_BLD.shape
        # probabilities of experts for each token, in float32 or wider, (B, L, E)
        with torch.autocast(x_BLD.device.type, enabled=False):
            wide_BLD = x_BLD.to(torch.promote_types(x_BLD.dtype, torch.float32))
            logits_BLE = project(self.projection, wide_BLD)
            score_BLE = logits_BLE.softmax(-1)
        # each expert takes the same number of positions per sequence, the most probable first, (B, C, E)
        share = self.choices_each / self.experts
        taken = min(L, max(1, math.ceil(L * share)))
        rank_BLE = score_BLE if mask_BL is None else score_BLE.masked_fill(~mask_BL.unsqueeze(-1), -1.0)
        position_BCE = torch.sort(rank_BLE.detach(), dim=1, descending=True, stable=True).indices[:, :taken]
        gate_BCE = score_BLE.gather(1, position_BCE)
        if mask_BL is not None:  # experts take fewer tokens of a sequence that is shorter without its padding
            room_B = (mask_BL.sum(1) * share).ceil().clamp(min=1).minimum(mask_BL.sum(1))
            gate_BCE = gate_BCE * (torch.arange(taken, device=x_BLD.device) < room_B.unsqueeze(1)).unsqueeze(-1)
        # rows by expert, then by sequence: S = E * B * C
        gate_EBC = gate_BCE.permute(2, 0, 1)
        first_B = torch.arange(B, device=x_BLD.device) * L
        token_S = (position_BCE + first_B.view(B, 1, 1)).permute(2, 0, 1).reshape(-1)
        x_ND = x_BLD.reshape(B * L, D)
        ends_E = torch.arange(1, self.experts + 1, device=x_BLD.device, dtype=torch.int32) * (B * taken)
        # the experts' outputs, weighted by their gates and added up for each token
        y_SD = run(self.body, self.rows, x_ND.index_select(0, token_S), ends_E, x_ND, token_S)
        y_SD = y_SD * gate_EBC.reshape(-1, 1).to(y_SD.dtype)
        y_ND = torch.zeros(B * L, D, device=x_BLD.device, dtype=y_SD.dtype).index_add(0, token_S, y_SD)
        y_BLD = y_ND.view(B, L, D)
        # shared experts see every token
        for expert in self.shared:
            y_BLD = y_BLD + expert(x_BLD)
        # losses and counts of this pass, unless it only recomputes or counts operations
        if self.training and not is_counting() and not is_recomputing():
            self._note(logits_BLE, token_S, gate_EBC, mask_BL)
        return y_BLD

    def _note(self, logits_BLE: Tensor, token_S: Tensor, gate_EBC: Tensor, mask_BL: Tensor | None) -> None:
        real_N = None if mask_BL is None else mask_BL.reshape(-1)
        self._losses.add({"z": self.z_loss * logit_size(logits_BLE.flatten(0, 1), real_N)} if self.z_loss else {})
        with torch.no_grad():
            met_N = torch.zeros(logits_BLE.shape[:2].numel(), dtype=torch.int64, device=token_S.device)
            met_N = met_N.scatter_add(0, token_S, (gate_EBC.reshape(-1) > 0).to(torch.int64)) > 0
            real_N = torch.ones_like(met_N) if real_N is None else real_N
            self.unserved, self.seen = self.unserved.to(met_N.device), self.seen.to(met_N.device)
            self.unserved += (real_N & ~met_N).sum()  # in place, so that a captured graph updates it too
            self.seen += real_N.sum()

    def side_losses(self) -> dict[str, Tensor]:
        """The weighted z-loss, the mean over passes since this was last asked. It is handed out once."""
        return self._losses.taken()

    @torch.no_grad()
    def side_metrics(self) -> dict[str, Tensor]:
        """The share of tokens that no expert took, over all processes since the last report."""
        share = sum_over_processes(self.unserved) / sum_over_processes(self.seen).clamp(min=1)
        self.unserved.zero_()
        self.seen.zero_()
        return {"moe/unserved": share, f"moe/layer{self.layer}/unserved": share.clone()}

    def counters(self) -> dict[str, Tensor]:
        """What is counted since the last report."""
        return {"unserved": self.unserved, "seen": self.seen}

    def inactive_parameters(self) -> int:
        """Expert parameters that a token does not meet, on average."""
        each = sum(parameter.numel() for parameter in self.body.parameters()) // self.experts
        return each * (self.experts - self.choices_each)

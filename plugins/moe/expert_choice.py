"""Experts that choose their tokens, instead of tokens their experts."""

import math

import torch
from torch import Tensor, nn

from zoo.nn import is_counting, is_recomputing, project

from .balance import logit_size
from .linears import Rows, run


class ExpertChoice(nn.Module):
    """Each expert takes, of each sequence, the ``K * L / E`` tokens that it is most probable for.

    Zhou et al. 2022, arXiv:2202.09368, within each sequence, so that one example does not depend on another. Every
    expert is as busy as any other, without a loss; a token may meet many experts or none. Which tokens are taken
    depends on all tokens of the sequence, later ones too: for encoders alone. Results are added up, which on a GPU has
    no fixed order.
    """

    def __init__(
        self, projection: nn.Module, rows: Rows, body: nn.Module, shared: nn.ModuleList, layer: int, experts: int,
        choices: int, z_loss: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.projection, self.rows, self.body, self.shared = projection, rows, body, shared
        self.layer, self.experts, self.choices_each, self.z_loss = layer, experts, choices, z_loss
        self.unserved, self.seen = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        self._losses: dict[str, Tensor] = {}

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D) to (B, L, D); padding is never taken."""
        B, L, D = x_BLD.shape
        with torch.autocast(x_BLD.device.type, enabled=False):
            wide_BLD = x_BLD.to(torch.promote_types(x_BLD.dtype, torch.float32))
            logits_BLE = project(self.projection, wide_BLD)
            score_BLE = logits_BLE.softmax(-1)
        share = self.choices_each / self.experts
        taken = min(L, max(1, math.ceil(L * share)))
        rank_BLE = score_BLE if mask_BL is None else score_BLE.masked_fill(~mask_BL.unsqueeze(-1), -1.0)
        place_BCE = torch.sort(rank_BLE.detach(), dim=1, descending=True, stable=True).indices[:, :taken]
        gate_BCE = score_BLE.gather(1, place_BCE)
        if mask_BL is not None:  # padding makes no sequence longer: an expert takes fewer of a short one
            room_B = (mask_BL.sum(1) * share).ceil().clamp(min=1).minimum(mask_BL.sum(1))
            gate_BCE = gate_BCE * (torch.arange(taken, device=x_BLD.device) < room_B.unsqueeze(1)).unsqueeze(-1)
        gate_EBC = gate_BCE.permute(2, 0, 1)
        first_B = torch.arange(B, device=x_BLD.device) * L
        token_S = (place_BCE + first_B.view(B, 1, 1)).permute(2, 0, 1).reshape(-1)
        x_ND = x_BLD.reshape(B * L, D)
        ends_E = torch.arange(1, self.experts + 1, device=x_BLD.device, dtype=torch.int32) * (B * taken)
        y_SD = run(self.body, self.rows, x_ND.index_select(0, token_S), ends_E, x_ND, token_S)
        y_SD = y_SD * gate_EBC.reshape(-1, 1).to(y_SD.dtype)
        y_ND = torch.zeros(B * L, D, device=x_BLD.device, dtype=y_SD.dtype).index_add(0, token_S, y_SD)
        y_BLD = y_ND.view(B, L, D)
        for expert in self.shared:
            y_BLD = y_BLD + expert(x_BLD)
        if self.training and not is_counting() and not is_recomputing():
            self._note(logits_BLE, token_S, gate_EBC, mask_BL)
        return y_BLD

    def _note(self, logits_BLE: Tensor, token_S: Tensor, gate_EBC: Tensor, mask_BL: Tensor | None) -> None:
        real_N = None if mask_BL is None else mask_BL.reshape(-1)
        self._losses = {"z": self.z_loss * logit_size(logits_BLE.flatten(0, 1), real_N)} if self.z_loss else {}
        with torch.no_grad():
            met_N = torch.zeros(logits_BLE.shape[:2].numel(), dtype=torch.int64, device=token_S.device)
            met_N = met_N.scatter_add(0, token_S, (gate_EBC.reshape(-1) > 0).to(torch.int64)) > 0
            real_N = torch.ones_like(met_N) if real_N is None else real_N
            self.unserved, self.seen = self.unserved.to(met_N.device), self.seen.to(met_N.device)
            self.unserved += (real_N & ~met_N).sum()  # written into, not replaced: a recorded pass does so again
            self.seen += real_N.sum()

    def side_losses(self) -> dict[str, Tensor]:
        """The z-loss of the last pass, weighted; asked for once."""
        losses, self._losses = self._losses, {}
        return losses

    @torch.no_grad()
    def side_metrics(self) -> dict[str, Tensor]:
        """The share of tokens since the last report that no expert took."""
        share = self.unserved / self.seen.clamp(min=1)
        self.unserved.zero_()
        self.seen.zero_()
        return {"moe/unserved": share, f"moe/layer{self.layer}/unserved": share.clone()}

    def inactive_parameters(self) -> int:
        """Parameters of experts that a token does not meet on average."""
        each = sum(parameter.numel() for parameter in self.body.parameters()) // self.experts
        return each * (self.experts - self.choices_each)

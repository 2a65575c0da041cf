"""Encoder, teacher and predictor: the parts of methods that predict embeddings."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.nn import padding, stem_facts, take, token_ids


def at(mask_BL: Tensor | None, position_ids_BS: Tensor) -> Tensor | None:
    """Which of these positions, (B, ...), are no padding; none where there is no padding at all."""
    if mask_BL is None:
        return None
    return mask_BL.gather(1, position_ids_BS.flatten(1)).view(position_ids_BS.shape)


class Encoder(nn.Module):
    """A stem and a backbone, which read all of an input or a few of its positions."""

    def __init__(self, stem, backbone, causal: bool = False) -> None:
        super().__init__()
        self.stem = stem()
        self.backbone = backbone(causal=causal, **stem_facts(self.stem))
        self.before = getattr(self.stem, "grid", (0,))[0]

    def forward(self, inputs: Tensor, position_ids_BS: Tensor | None = None, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D); or (B, S, D) of only these positions, so that the others cost nothing. Padding stands behind."""
        x_BLD = self.stem(inputs)
        if position_ids_BS is None:
            told = token_ids(self.backbone, inputs) | padding(mask_BL, behind=True)
            return self.backbone(x_BLD, **told)[0]
        told = token_ids(self.backbone, inputs, position_ids_BS) | padding(at(mask_BL, position_ids_BS), behind=True)
        return self.backbone(take(x_BLD, position_ids_BS), position_ids_BL=position_ids_BS, **told)[0]

    def embed(self, inputs: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """(B, L, D) of a whole input, without class token and registers."""
        return self(inputs, mask_BL=mask_BL)[:, self.before :]

    def patches_alone(self, objective: str) -> None:
        """Refuse class tokens and registers, for objectives that hide and predict positions.

        Raises:
            ValueError: the stem has a class token or registers.
        """
        if self.before:
            raise ValueError(f"objective={objective} needs patches alone: stem.class_token=false stem.registers=0")

    def layers(self, inputs: Tensor, count: int, mask_BL: Tensor | None = None) -> list[Tensor]:
        """The outputs of the backbone's last ``count`` layers for an input, (B, L, D) each. Only the last is normed."""
        backbone = self.backbone
        if count > 1 and (getattr(backbone, "loops", 1) > 1 or getattr(backbone, "stream", None) is not None):
            raise ValueError("objective.averaged_layers needs layers that run once, on one stream")
        kept: list[Tensor] = []
        blocks = self.backbone.blocks[-count:-1] if count > 1 else []
        handles = [block.register_forward_hook(lambda _, __, out: kept.append(out[0])) for block in blocks]
        try:
            last_BLD = self(inputs, mask_BL=mask_BL)
        finally:
            for handle in handles:
                handle.remove()
        return [*kept, last_BLD]

    def normalised(self, inputs: Tensor, count: int = 1, mask_BL: Tensor | None = None) -> Tensor:
        """The mean of these last layers, each vector normalised, (B, L, D) in float32: the targets."""
        normal = [F.layer_norm(x_BLD.float(), x_BLD.shape[-1:]) for x_BLD in self.layers(inputs, count, mask_BL)]
        return torch.stack(normal).mean(0)


class Teacher(nn.Module):
    """A copy of a module that follows it slowly: an exponential moving average of its weights.

    ``t <- m t + (1 - m) s`` after each optimizer step, with m rising linearly from ``momentum`` to 1 (I-JEPA's code).
    No gradient reaches it, and the training loop leaves it alone (``frozen``). It is always in evaluation mode.
    """

    frozen = True

    def __init__(self, student: nn.Module, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"objective.momentum={momentum}: expected from 0 to 1")
        self.module, self.momentum = copy.deepcopy(student).requires_grad_(False).eval(), momentum

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, step: int, steps: int) -> None:
        """One step towards the student, after ``step`` of ``steps``. Integer tensors are copied."""
        momentum = self.momentum + (1 - self.momentum) * step / steps
        mine, theirs = self.module.state_dict(), student.state_dict()
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_mul_([mine[name] for name in floats], momentum)
        torch._foreach_add_([mine[name] for name in floats], [theirs[name] for name in floats], alpha=1 - momentum)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])


class Predictor(nn.Module):
    """A narrow encoder that reads the context and predicts what stands at the targets (I-JEPA's predictor).

    Context vectors and one trained vector for each target pass through it in the order of their positions, which it is
    told. So it works with any mixer.
    """

    def __init__(self, dim: int, out_features: int, width: int, layers: int, backbone, linear, stem: nn.Module) -> None:
        super().__init__()
        for name, value in (("predictor_dim", width), ("predictor_layers", layers)):
            if value < 1:
                raise ValueError(f"objective.{name}={value}: expected at least 1")
        self.into = linear(in_features=dim, out_features=width, bias=True)
        self.hidden_D = nn.Parameter(torch.randn(width) * 0.02)
        self.backbone = backbone(causal=False, dim=width, depth=layers, **stem_facts(stem))
        self.out = linear(in_features=width, out_features=out_features, bias=True)

    def forward(
        self, context_BSD: Tensor, context_BS: Tensor, target_BT: Tensor, mask_BL: Tensor | None = None
    ) -> Tensor:
        """(B, T, out_features) at the targets, from the context (B, S, D) at its positions; neither reads padding."""
        return self._predict(self.into(context_BSD), context_BS, target_BT, mask_BL)

    def of_each(
        self, context_BSD: Tensor, context_BS: Tensor, target_BMT: Tensor, mask_BL: Tensor | None = None
    ) -> Tensor:
        """The same for M groups of targets, each predicted separately, (B, M, T, out_features)."""
        M = target_BMT.shape[1]
        x_BSD = self.into(context_BSD)
        seen_NSD, where_NS = (x.unsqueeze(1).expand(-1, M, *x.shape[1:]).flatten(0, 1) for x in (x_BSD, context_BS))
        mask_NL = None if mask_BL is None else mask_BL.repeat_interleave(M, 0)
        return self._predict(seen_NSD, where_NS, target_BMT.flatten(0, 1), mask_NL).unflatten(0, (-1, M))

    def _predict(self, x_BSD: Tensor, context_BS: Tensor, target_BT: Tensor, mask_BL: Tensor | None) -> Tensor:
        # the same trained vector stands at every target
        asked_BTD = self.hidden_D.to(x_BSD.dtype).expand(*target_BT.shape, -1)
        # context and targets in the order of their positions, so that a recurrent mixer serves too
        position_ids_BL, order_BL = torch.cat([context_BS, target_BT], 1).sort(1)
        x_BLD = take(torch.cat([x_BSD, asked_BTD], 1), order_BL)
        x_BLD = self.backbone(
            x_BLD, position_ids_BL=position_ids_BL, **padding(at(mask_BL, position_ids_BL), behind=True)
        )[0]
        # undo the order, and read off the targets
        rank_L = torch.arange(order_BL.shape[1], device=order_BL.device)
        back_BL = torch.empty_like(order_BL).scatter_(1, order_BL, rank_L.expand_as(order_BL))
        return self.out(take(x_BLD, back_BL[:, context_BS.shape[1] :]))

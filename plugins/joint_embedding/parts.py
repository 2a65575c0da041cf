"""Encoder, teacher and predictor: what methods that predict embeddings are made of."""

import copy

import torch
from torch import Tensor, nn

from zoo.nn import places


class Encoder(nn.Module):
    """Stem and backbone of an encoder, of all of an input or of a few of its places."""

    def __init__(self, stem, backbone, **facts) -> None:
        super().__init__()
        self.stem = stem(**facts)
        self.backbone = backbone(causal=False, **places(self.stem))
        self.before = getattr(self.stem, "grid", (0,))[0]

    def forward(self, inputs: Tensor, places_BS: Tensor | None = None) -> Tensor:
        """(B, L, D); or (B, S, D) of these places alone, so that the others cost nothing."""
        x_BLD = self.stem(inputs)
        if places_BS is None:
            return self.backbone(x_BLD)[0]
        return self.backbone(take(x_BLD, places_BS), places_BL=places_BS)[0]

    def embed(self, inputs: Tensor) -> Tensor:
        """(B, D): the mean over places of a whole input, but for what stands before them."""
        return self(inputs)[:, self.before :].mean(1)

    def patches_alone(self, objective: str) -> None:
        """Refuse what stands before the places, where an objective hides and predicts these.

        Raises:
            ValueError: the stem has a class token or registers.
        """
        if self.before:
            raise ValueError(f"objective={objective} needs patches alone: stem.class_token=false stem.registers=0")

    def layers(self, inputs: Tensor, count: int) -> list[Tensor]:
        """What the last ``count`` layers of the backbone make of an input, (B, L, D) each; the last one's is normed."""
        kept: list[Tensor] = []
        blocks = self.backbone.blocks[-count:-1] if count > 1 else []
        handles = [block.register_forward_hook(lambda _, __, out: kept.append(out[0])) for block in blocks]
        try:
            last_BLD = self(inputs)
        finally:
            for handle in handles:
                handle.remove()
        return [*kept, last_BLD]


def take(x_BLD: Tensor, places_BS: Tensor) -> Tensor:
    """The vectors at these places, (B, S, D)."""
    return x_BLD.gather(1, places_BS.unsqueeze(-1).expand(-1, -1, x_BLD.shape[-1]))


class Teacher(nn.Module):
    """A copy of a module that follows it slowly: an exponential moving average of its weights.

    ``t <- m t + (1 - m) s`` after each optimizer step, m from ``momentum`` to 1 linearly (I-JEPA's code). No gradient
    reaches it; the loop leaves what is inside alone (``frozen``). It is always in evaluation mode.
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
        """One step towards the student, ``step`` of ``steps`` being done; whole numbers are copied."""
        momentum = self.momentum + (1 - self.momentum) * step / steps
        mine, theirs = self.module.state_dict(), student.state_dict()
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_mul_([mine[name] for name in floats], momentum)
        torch._foreach_add_([mine[name] for name in floats], [theirs[name] for name in floats], alpha=1 - momentum)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])


class Predictor(nn.Module):
    """A narrow encoder that reads the context and says what stands at the targets (I-JEPA's predictor).

    Context and one trained vector for each target go through it in the order of their places, which it is told, so any
    mixer serves.
    """

    def __init__(self, dim: int, out_features: int, width: int, layers: int, backbone, linear, stem: nn.Module) -> None:
        super().__init__()
        for name, value in (("predictor_dim", width), ("predictor_layers", layers)):
            if value < 1:
                raise ValueError(f"objective.{name}={value}: expected at least 1")
        self.into = linear(in_features=dim, out_features=width, bias=True)
        self.hidden_D = nn.Parameter(torch.randn(width) * 0.02)
        self.backbone = backbone(causal=False, dim=width, depth=layers, **places(stem))
        self.out = linear(in_features=width, out_features=out_features, bias=True)

    def forward(self, context_BSD: Tensor, context_BS: Tensor, target_BT: Tensor) -> Tensor:
        """(B, T, out_features) at the targets, from the context (B, S, D) at its places."""
        x_BSD = self.into(context_BSD)
        asked_BTD = self.hidden_D.to(x_BSD.dtype).expand(*target_BT.shape, -1)
        places_BL = torch.cat([context_BS, target_BT], 1)
        order_BL = places_BL.argsort(1)
        x_BLD = take(torch.cat([x_BSD, asked_BTD], 1), order_BL)
        x_BLD = self.backbone(x_BLD, places_BL=places_BL.gather(1, order_BL))[0]
        back_BL = order_BL.argsort(1)[:, context_BS.shape[1] :]
        return self.out(take(x_BLD, back_BL))

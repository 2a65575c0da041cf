"""A probe that learns where in an input to look."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import register


class Pool(nn.Module):
    """One learned query per head attends to the positions of an input, and a linear layer classifies the result."""

    def __init__(self, dim: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_HK = nn.Parameter(torch.randn(heads, dim // heads) * 0.02)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, classes)

    def forward(self, x_BLD: Tensor, real_BL: Tensor | None = None) -> Tensor:
        """Logits (B, C); nothing looks at padding."""
        B, L, _ = x_BLD.shape
        k_BHLK, v_BHLK = self.key_value(x_BLD).view(B, L, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q_BH1K = self.query_HK[:, None].expand(B, -1, -1, -1)
        mask = None if real_BL is None else real_BL[:, None, None, :]
        return self.out(F.scaled_dot_product_attention(q_BH1K, k_BHLK, v_BHLK, attn_mask=mask).flatten(1))


@register("probe", "attentive")
class AttentiveProbe:
    """Attention over frozen embeddings with one learned query, followed by a linear classifier.

    ``logits = W * concat_h(softmax(q_h K_h^T / sqrt(dim / heads)) V_h) + b`` with keys and values projected from the
    standardised embeddings, (N, L, D). Used by Assran et al. 2023, arXiv:2301.08243, and Bardes et al. 2024,
    arXiv:2404.08471, where the mean over positions would hide what only a few positions hold. It is trained with AdamW
    (weight decay 0.05) on batches of 256 labelled examples. The learning rate falls to zero along a cosine. Weights and
    the order of examples come from a fixed seed of their own.

    Args:
        heads: number of attention heads. It must divide ``dim``.
        steps: number of training steps, on 256 examples each.
        lr: learning rate at the first step.
    """

    reads_positions = probabilities = True

    def __init__(self, dim: int, classes: int, heads: int = 4, steps: int = 300, lr: float = 1e-2) -> None:
        if heads < 1 or steps < 1 or not lr > 0:
            raise ValueError(
                f"probe.heads={heads}, probe.steps={steps}, probe.lr={lr}: expected at least 1, 1, and more than 0"
            )
        if dim % heads:
            raise ValueError(f"probe.heads={heads}: expected a divisor of dim={dim}")
        self.classes, self.heads, self.steps, self.lr = classes, heads, steps, lr

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, embeddings_NLD: Tensor, labels_N: Tensor, real_NL: Tensor | None = None) -> None:
        """Fit to labelled examples: embeddings (N, L, D), labels (N,), and a padding mask (N, L), false at padding."""
        # embeddings may be inference tensors, which autograd refuses: work on copies
        known_NLD, labels_N = embeddings_NLD.float().clone(), labels_N.clone()
        real_NL = None if real_NL is None else real_NL.clone()
        N, _, D = known_NLD.shape
        # standardise each channel over the real positions, and keep the statistics for the test
        if real_NL is None:
            self.mean_D, deviation_D = known_NLD.mean((0, 1)), known_NLD.std((0, 1))
        else:
            self.mean_D, deviation_D = known_NLD[real_NL].mean(0), known_NLD[real_NL].std(0)
        self.deviation_D = deviation_D.clamp(min=1e-8)
        x_NLD, device = self._standard(known_NLD), known_NLD.device
        # draw weights and batches from a fixed seed, without moving the run's own random state
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            self.pool = Pool(D, self.heads, self.classes).to(device)
            passes = -(-self.steps * 256 // N)
            order_M = torch.cat([torch.randperm(N, device=device) for _ in range(passes)])[: self.steps * 256]
        # train the pooling and the classifier; the embeddings themselves stay frozen
        optimizer = torch.optim.AdamW(self.pool.parameters(), lr=self.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for part_B in order_M.split(256):
            optimizer.zero_grad()
            real_BL = None if real_NL is None else real_NL[part_B]
            F.cross_entropy(self.pool(x_NLD[part_B], real_BL), labels_N[part_B]).backward()
            optimizer.step()
            schedule.step()

    def __call__(self, embeddings_NLD: Tensor, real_NL: Tensor | None = None) -> Tensor:
        """Logits (N, C)."""
        with torch.no_grad():
            return self.pool(self._standard(embeddings_NLD.float()), real_NL)  # type: ignore[no-any-return]

    def _standard(self, x_NLD: Tensor) -> Tensor:
        return (x_NLD - self.mean_D) / self.deviation_D

"""Qwen3."""

from typing import Any

from zoo import Correspondence, register

from .llama import Llama


@register("family", "qwen3")
class Qwen3(Llama):
    """Qwen3's dense models with their language head (arXiv:2505.09388), as ``Qwen3ForCausalLM`` has them.

    They are Llama's, with a norm of queries and keys in each head.
    """

    model_type, architecture = "qwen3", "Qwen3ForCausalLM"

    def __init__(self) -> None:
        """A table has no settings."""

    def words(self, config: dict[str, Any]) -> list[str]:
        """``arch=qwen3`` of this size."""
        if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
            raise ValueError("some of its layers are in a window; expected full attention")
        return super().words({"head_dim": 128, **config})

    def correspondences(self, config: dict[str, Any]) -> list[Correspondence]:
        """Llama's, and the norms of each head."""
        rows = super().correspondences(config)
        for i in range(config["num_hidden_layers"]):
            theirs, ours = f"model.layers.{i}.self_attn.", f"backbone.blocks.{i}.mixer."
            rows.append(Correspondence(theirs + "q_norm.weight", (ours + "query_norm.weight",)))
            rows.append(Correspondence(theirs + "k_norm.weight", (ours + "key_norm.weight",)))
        return rows

    def config(self, model: Any, objective: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """What ``Qwen3Config`` takes."""
        if model.backbone.blocks[0].mixer.norm_qk != "before":
            raise ValueError("it has no norm of queries and keys before they turn")
        config = super().config(model, objective, facts)
        if config.pop("mlp_bias"):
            raise ValueError("its feed-forward layers have biases")
        return config

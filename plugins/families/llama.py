"""Llama."""

from typing import Any

from torch import nn

from zoo import Correspondence, Family, register

from .common import both, depth, plain_attention, size, token_facts


@register("family", "llama")
class Llama(Family):
    """Llama 1 to 3 with its language head (Touvron et al. 2023, arXiv:2302.13971), as ``LlamaForCausalLM`` has it."""

    model_type, architecture, prefix = "llama", "LlamaForCausalLM", "model."
    tied = {"lm_head.weight": "model.embed_tokens.weight"}
    ignored = (r".*\.rotary_emb\.inv_freq",)

    example = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 11,
        "max_position_embeddings": 8,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
    }

    def __init__(self) -> None:
        """A table has no settings."""

    def words(self, config: dict[str, Any]) -> list[str]:
        """``arch=llama`` of this size."""
        if config.get("hidden_act", "silu") != "silu":
            raise ValueError(f"its activation is {config['hidden_act']}; expected silu")
        heads = config["num_attention_heads"]
        # rotary settings have stood under two names over time
        rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        kind = rope.get("rope_type", rope.get("type", "default"))
        words = [
            f"arch={self.model_type}",
            *size(config, "hidden_size", "num_hidden_layers", "num_attention_heads"),
            f"mixer.kv_heads={config.get('num_key_value_heads') or heads}",
            f"mixer.head_dim={config.get('head_dim') or config['hidden_size'] // heads}",
            f"mixer.bias={str(bool(config.get('attention_bias'))).lower()}",
            f"ffn.hidden={config['intermediate_size']}",
            f"ffn.bias={str(bool(config.get('mlp_bias'))).lower()}",
            f"norm.eps={config['rms_norm_eps']}",
            f"position.base={float(rope.get('rope_theta', config.get('rope_theta', 10000.0)))}",
            f"objective.tied={str(bool(config.get('tie_word_embeddings'))).lower()}",
        ]
        return words if kind == "default" else words + _scaling(kind, rope, config)

    def facts(self, config: dict[str, Any]) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return token_facts(config, "max_position_embeddings")

    def correspondences(self, config: dict[str, Any]) -> list[Correspondence]:
        """One to one."""
        # the embedding, the last norm, and the head where it is not tied
        rows = [
            Correspondence("model.embed_tokens.weight", ("stem.embedding.weight",)),
            Correspondence("model.norm.weight", ("backbone.norm.weight",)),
        ]
        if not config.get("tie_word_embeddings"):
            rows.append(Correspondence("lm_head.weight", ("head.weight",)))
        biased = {"self_attn": bool(config.get("attention_bias")), "mlp": bool(config.get("mlp_bias"))}
        names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
        # the layers: attention, feed-forward, norms
        for i in range(config["num_hidden_layers"]):
            theirs, ours = f"model.layers.{i}.", f"backbone.blocks.{i}."
            for name, own in names.items():
                rows += both(f"{theirs}self_attn.{name}", f"{ours}mixer.{own}", bias=biased["self_attn"])
            for name in ("gate", "up", "down"):
                rows += both(f"{theirs}mlp.{name}_proj", f"{ours}ffn.{name}", bias=biased["mlp"])
            rows += both(theirs + "input_layernorm", ours + "mixer_norm", bias=False)
            rows += both(theirs + "post_attention_layernorm", ours + "ffn_norm", bias=False)
        return rows

    def config(self, model: Any, objective: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """What ``LlamaConfig`` takes."""
        plain_attention(objective)
        block, position = model.backbone.blocks[0], objective["backbone"]["mixer"]["position"]
        # only models with RMSNorm and rotary positions belong to this family
        if not isinstance(block.mixer_norm, nn.RMSNorm) or position["_component_"] != "position/rotary":
            raise ValueError("it has not RMSNorm and rotary positions")
        # rotary settings in their names
        rope: dict[str, Any] = {"rope_theta": position["base"], "rope_type": "default"}
        if position["scaling"] == "ntk":
            raise ValueError("position.scaling=ntk has no name there")
        if position["scaling"] != "none":
            rope |= {"rope_type": position["scaling"], "factor": position["factor"]}
            if position["trained_len"] is not None:
                rope["original_max_position_embeddings"] = position["trained_len"]
        if position["scaling"] == "llama3":
            rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        # sizes are read off the first block; all blocks are alike
        return {
            "vocab_size": facts["vocab_size"],
            "hidden_size": model.head.in_features,
            "intermediate_size": block.ffn.down.in_features,
            "num_hidden_layers": depth(model),
            "num_attention_heads": block.mixer.heads,
            "num_key_value_heads": block.mixer.kv_heads,
            "head_dim": block.mixer.head_dim,
            "hidden_act": block.ffn.activation.__name__,
            "max_position_embeddings": facts["max_len"],
            "rms_norm_eps": block.mixer_norm.eps,
            "rope_parameters": rope,
            "attention_bias": block.mixer.query.bias is not None,
            "mlp_bias": block.ffn.up.bias is not None,
            "tie_word_embeddings": model.head.weight is model.stem.embedding.weight,
            "bos_token_id": None,
            "eos_token_id": None,
        }


def _scaling(kind: str, rope: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Overrides for rotary positions that reach beyond the trained length.

    Raises:
        ValueError: the scaling is none of ours, or has other constants.
    """
    # scalings and constants that ours do not have are refused
    if kind not in ("linear", "yarn", "llama3"):
        raise ValueError(f"its rotary positions are scaled by {kind}; expected linear, yarn or llama3")
    ours = {"beta_fast": 32, "beta_slow": 1, "low_freq_factor": 1, "high_freq_factor": 4}
    for name, value in ours.items():
        if rope.get(name) is not None and rope[name] != value:
            raise ValueError(f"its rotary positions have {name}={rope[name]}, and ours {value}")
    for name in ("attention_factor", "mscale", "mscale_all_dim"):
        if rope.get(name) is not None:
            raise ValueError(f"its rotary positions have {name}={rope[name]}, which ours have not")
    if rope.get("truncate") is False:
        raise ValueError("its rotary positions have truncate=false, and ours true")
    # the rest are settings of position=rotary
    words = ["position.scaling=" + kind, f"position.factor={float(rope['factor'])}"]
    trained = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
    return words if kind == "linear" else [*words, f"position.trained_len={trained}"]

"""GPT-2."""

from typing import Any

from zoo import Correspondence, Family, register

from .common import ACTIVATIONS, activation, both, depth, layernorm, plain_attention, size, token_facts


@register("family", "gpt2")
class GPT2(Family):
    """GPT-2 with its language head (Radford et al. 2019), as ``GPT2LMHeadModel`` has it."""

    model_type, architecture, prefix = "gpt2", "GPT2LMHeadModel", "transformer."
    tied = {"lm_head.weight": "transformer.wte.weight"}
    ignored = (r".*\.attn\.(bias|masked_bias)",)

    example = {
        "vocab_size": 11,
        "n_positions": 8,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }

    def __init__(self) -> None:
        """A table has no settings."""

    def words(self, config: dict[str, Any]) -> list[str]:
        """``arch=gpt2`` of this size."""
        # variants that have no counterpart here
        if config.get("scale_attn_by_inverse_layer_idx") or not config.get("scale_attn_weights", True):
            raise ValueError("its attention scales scores in a way of its own, and ours by 1 / sqrt(head_dim) alone")
        hidden = config.get("n_inner") or 4 * config["n_embd"]
        return [
            "arch=gpt2",
            *size(config, "n_embd", "n_layer", "n_head"),
            f"ffn.hidden={hidden}",
            f"ffn.activation={activation(config['activation_function'])}",
            f"norm.eps={config['layer_norm_epsilon']}",
            f"objective.tied={str(config.get('tie_word_embeddings', True)).lower()}",
        ]

    def facts(self, config: dict[str, Any]) -> dict[str, Any]:
        """Tokens in, tokens out."""
        return token_facts(config, "n_positions")

    def correspondences(self, config: dict[str, Any]) -> list[Correspondence]:
        """Matrices are stored there as (in, out), with queries, keys and values in one."""
        # embeddings, the last norm, and the head where it is not tied
        rows = [
            Correspondence("transformer.wte.weight", ("stem.embedding.weight",)),
            Correspondence("transformer.wpe.weight", ("backbone.position.table.weight",)),
            *both("transformer.ln_f", "backbone.norm"),
        ]
        if not config.get("tie_word_embeddings", True):
            rows.append(Correspondence("lm_head.weight", ("head.weight",)))
        # the layers: norms, attention, feed-forward
        for i in range(config["n_layer"]):
            theirs, ours = f"transformer.h.{i}.", f"backbone.blocks.{i}."
            rows += both(theirs + "ln_1", ours + "mixer_norm") + both(theirs + "ln_2", ours + "ffn_norm")
            parts = [ours + f"mixer.{name}" for name in ("query", "key", "value")]
            rows += both(theirs + "attn.c_attn", *parts, transposed=True)
            rows += both(theirs + "attn.c_proj", ours + "mixer.out", transposed=True)
            rows += both(theirs + "mlp.c_fc", ours + "ffn.up", transposed=True)
            rows += both(theirs + "mlp.c_proj", ours + "ffn.down", transposed=True)
        return rows

    def config(self, model: Any, objective: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """What ``GPT2Config`` takes."""
        plain_attention(objective)
        # sizes are read off the first block; all blocks are alike
        block: Any = model.backbone.blocks[0]
        return {
            "vocab_size": facts["vocab_size"],
            "n_positions": facts["max_len"],
            "n_embd": model.head.in_features,
            "n_layer": depth(model),
            "n_head": block.mixer.heads,
            "n_inner": block.ffn.up.out_features,
            "activation_function": ACTIVATIONS[block.ffn.activation.__name__],
            "layer_norm_epsilon": layernorm(block.mixer_norm).eps,
            "tie_word_embeddings": model.head.weight is model.stem.embedding.weight,
            "bos_token_id": None,
            "eos_token_id": None,
        }

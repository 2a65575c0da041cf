"""Vision transformers."""

from typing import Any

from zoo import Correspondence, Family, register

from .common import ACTIVATIONS, activation, both, depth, layernorm, plain_attention, size, square


@register("family", "vit")
class ViT(Family):
    """The vision transformer with its classifier (Dosovitskiy et al. 2020), as ``ViTForImageClassification`` has it."""

    model_type, architecture, prefix = "vit", "ViTForImageClassification", "vit."
    ignored = (r"vit\.pooler\..*",)
    renames = (  # newer releases use other names
        (r"^vit\.layers\.(\d+)\.attention\.([qkv])_proj\.", r"vit.encoder.layer.\1.attention.attention.\2."),
        (r"\.attention\.attention\.q\.", ".attention.attention.query."),
        (r"\.attention\.attention\.k\.", ".attention.attention.key."),
        (r"\.attention\.attention\.v\.", ".attention.attention.value."),
        (r"^vit\.layers\.(\d+)\.attention\.o_proj\.", r"vit.encoder.layer.\1.attention.output.dense."),
        (r"^vit\.layers\.(\d+)\.mlp\.fc1\.", r"vit.encoder.layer.\1.intermediate.dense."),
        (r"^vit\.layers\.(\d+)\.mlp\.fc2\.", r"vit.encoder.layer.\1.output.dense."),
        (r"^vit\.layers\.(\d+)\.layernorm_", r"vit.encoder.layer.\1.layernorm_"),
    )

    example = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "num_labels": 3,
    }

    def __init__(self) -> None:
        """A table has no settings."""

    def words(self, config: dict[str, Any]) -> list[str]:
        """``arch=vit`` of this size, for images."""
        # variants that have no counterpart here
        if not config.get("qkv_bias", True):
            raise ValueError("its queries, keys and values have no bias and the projection after them has; ours agree")
        return [
            "arch=vit",
            "task=digits",
            *size(config, "hidden_size", "num_hidden_layers", "num_attention_heads"),
            f"ffn.hidden={config['intermediate_size']}",
            f"ffn.activation={activation(config['hidden_act'])}",
            f"norm.eps={config['layer_norm_eps']}",
            f"stem.patch_size={square(config, 'patch_size')}",
        ]

    def facts(self, config: dict[str, Any]) -> dict[str, Any]:
        """Images in, classes out."""
        classes = len(config.get("id2label") or {}) or config.get("num_labels", 2)
        side = square(config, "image_size")
        return {"image_size": side, "channels": config["num_channels"], "classes": classes, "max_len": side * side}

    def correspondences(self, config: dict[str, Any]) -> list[Correspondence]:
        """One to one. Patches are a convolution there, and a projection of their pixels here."""
        # class token, positions, patches, last norm and head
        dim, patch, channels = config["hidden_size"], square(config, "patch_size"), config["num_channels"]
        positions = (square(config, "image_size") // patch) ** 2 + 1
        patches = "vit.embeddings.patch_embeddings.projection"
        rows = [
            Correspondence("vit.embeddings.cls_token", ("stem.token_D",), shape=(1, 1, dim)),
            Correspondence(
                "vit.embeddings.position_embeddings", ("backbone.position.table.weight",), shape=(1, positions, dim)
            ),
            Correspondence(patches + ".weight", ("stem.projection.weight",), shape=(dim, channels, patch, patch)),
            Correspondence(patches + ".bias", ("stem.projection.bias",)),
            *both("vit.layernorm", "backbone.norm"),
            *both("classifier", "head"),
        ]
        # the layers: attention, norms, feed-forward
        for i in range(config["num_hidden_layers"]):
            theirs, ours = f"vit.encoder.layer.{i}.", f"backbone.blocks.{i}."
            for name in ("query", "key", "value"):
                rows += both(f"{theirs}attention.attention.{name}", f"{ours}mixer.{name}")
            rows += both(theirs + "attention.output.dense", ours + "mixer.out")
            rows += both(theirs + "layernorm_before", ours + "mixer_norm")
            rows += both(theirs + "layernorm_after", ours + "ffn_norm")
            rows += both(theirs + "intermediate.dense", ours + "ffn.up")
            rows += both(theirs + "output.dense", ours + "ffn.down")
        return rows

    def config(self, model: Any, objective: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """What ``ViTConfig`` takes."""
        plain_attention(objective)
        # sizes are read off the first block; all blocks are alike
        block, classes = model.backbone.blocks[0], facts["classes"]
        return {
            "hidden_size": model.head.in_features,
            "num_hidden_layers": depth(model),
            "num_attention_heads": block.mixer.heads,
            "intermediate_size": block.ffn.up.out_features,
            "hidden_act": ACTIVATIONS[block.ffn.activation.__name__],
            "layer_norm_eps": layernorm(block.mixer_norm).eps,
            "image_size": facts["image_size"],
            "patch_size": model.stem.patch_size,
            "num_channels": facts["channels"],
            "qkv_bias": True,
            "id2label": {str(i): f"LABEL_{i}" for i in range(classes)},
            "label2id": {f"LABEL_{i}": i for i in range(classes)},
        }

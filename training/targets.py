"""Which layers an adapter trains, at which rank."""

import re

from impressionism.records import early_single_blocks
from training.recipe import Adapter

# Patterns of whole names: a bare "proj_out" would also take the model's last layer.
BLOCKS = r"(single_)?transformer_blocks\.\d+\."
ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out"
MODULATION = r"norm1\.linear|norm1_context\.linear|norm\.linear"


def pattern(targets: str, single_blocks: int) -> str:
    """The whole names of the layers that a preset stands for, in a transformer of so many single blocks."""
    late = [str(index) for index in range(early_single_blocks(single_blocks), single_blocks)]
    return {
        "attention": f"{BLOCKS}({ATTENTION})",
        "all": f"{BLOCKS}({ATTENTION}|{FEED_FORWARD})",
        "every": f"{BLOCKS}({ATTENTION}|{FEED_FORWARD}|{MODULATION})",
        "style": rf"single_transformer_blocks\.({'|'.join(late)})\.({ATTENTION}|{FEED_FORWARD})",
        "compact": rf"single_transformer_blocks\.({'|'.join(late[::2])})\.attn\.to_v",
    }[targets]


def rank_of(name: str, wanted: Adapter, single_blocks: int) -> int:
    """The rank of a layer's update; 0: it has none."""
    if not re.fullmatch(pattern(wanted.targets, single_blocks), name):
        return 0
    return next((rank for part, rank in wanted.ranks.items() if re.search(part, name)), wanted.rank)

"""The card's Python blocks: they parse, they use FLUX's pipeline, and they run on a base model that is named.

A card may come from anywhere, so a block runs only where a base is named for it, and only if every name, attribute and
keyword in it is one of those below.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from model_card.faults import when

BLOCK = re.compile(r"^```(?:python|py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAINTERS = re.compile(r"\w+Pipeline|AutoPipelineForText2Image|PipelineQuantizationConfig")  # of diffusers
OF_TORCH = {"Generator", "bfloat16", "float32", "cuda", "inference_mode", "no_grad", "device"}
METHODS = {
    "is_available", "manual_seed", "to", "from_pretrained", "load_lora_weights", "set_adapters", "fuse_lora", "images",
    "save", "enable_model_cpu_offload", "enable_sequential_cpu_offload", "vae", "enable_tiling", "enable_slicing",
}  # fmt: skip
CALLED = {"from_pretrained", "load_lora_weights", "save"}  # touch files, so where and what must be plain to see
KEYWORDS = {  # not custom_pipeline nor trust_remote_code, which run code of the repository
    "torch_dtype", "dtype", "device_map", "weight_name", "adapter_name", "adapter_weights", "lora_scale",
    "quantization_config", "quant_backend", "quant_kwargs", "components_to_quantize", "prompt", "prompt_2", "width",
    "height", "num_inference_steps", "guidance_scale", "max_sequence_length", "generator", "device",
    "num_images_per_prompt", "joint_attention_kwargs",
}  # fmt: skip
FILE_NAME = re.compile(r"\w[\w .-]*")  # leads to no other folder
BUILTINS = {"print", "range", "enumerate", "zip", "len"}
PATIENCE = 600  # seconds


def faults(folder: Path, text: str, base: Path | None) -> list[str]:
    """What is wrong with the snippets; with a base on this machine they run."""
    blocks = BLOCK.findall(text)
    trees, told = [], []
    for number, block in enumerate(blocks, 1):
        try:
            trees.append(ast.parse(block))
        except SyntaxError as error:
            told.append(f"The Python block {number} is no Python: {error.msg} in line {error.lineno}.")
    loading = [tree for tree in trees if "from_pretrained" in calls(tree)]
    if not loading and not told:
        told.append("No Python block shows how to load it with diffusers.")
    told += [fault for tree in loading for fault in misuse(tree, folder)]
    if base and not told:
        told += run([tree for tree in trees if runnable(tree)], folder, base)
    return told


def calls(tree: ast.AST) -> set[str]:
    """Names of the methods and functions that are called."""
    found = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in found}


def attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def imported(tree: ast.AST, module: str) -> set[str]:
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
    }


def misuse(tree: ast.AST, folder: Path) -> list[str]:
    """What a reader would stumble over, without running it."""
    import diffusers

    classes, used = imported(tree, "diffusers"), attributes(tree)
    unknown = sorted(name for name in classes if not hasattr(diffusers, name))
    others = sorted(name for name in classes if re.fullmatch(r"(?!Flux|Diffusion)\w+Pipeline", name))
    absent = sorted(name for name in weight_names(tree) if not (folder / name).exists())
    return when(
        (unknown, f"The snippet imports {', '.join(unknown)}, which diffusers does not have."),
        (others, f"The snippet uses {', '.join(others)}, which is no pipeline of FLUX."),
        (used & {"unet", "load_attn_procs"}, "The snippet reaches for a unet; FLUX has a transformer."),
        ("load_lora_weights" not in used, "The snippet never loads the adapter (load_lora_weights)."),
        (used & {"float16", "half"}, "The snippet computes in float16, where FLUX overflows; use bfloat16."),
        (absent, f"The snippet loads {', '.join(absent)}, which is not here."),
    )


def weight_names(tree: ast.AST) -> set[str]:
    """The files that it asks load_lora_weights for."""
    keywords = [keyword for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords]
    named = [keyword.value for keyword in keywords if keyword.arg == "weight_name"]
    return {str(value.value) for value in named if isinstance(value, ast.Constant)}


# ---- Running it


def runnable(tree: ast.AST) -> bool:
    """Whether the block can do no more than paint and save pictures in the folder where it runs."""
    nodes = list(ast.walk(tree))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {node.id for node in names if isinstance(node.ctx, ast.Store)} | imported(tree, "diffusers") | {"torch"}
    free = {node.id for node in names if isinstance(node.ctx, ast.Load)} - bound
    keywords = {node.arg for node in nodes if isinstance(node, ast.keyword)}  # None: **
    return (
        all(may_import(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
        and free <= BUILTINS
        and attributes(tree) <= METHODS | OF_TORCH
        and all(node.attr in OF_TORCH for node in nodes if isinstance(node, ast.Attribute) and is_torch(node.value))
        and keywords <= KEYWORDS
        and keeps_to_its_folder(nodes)
    )


def may_import(node: ast.Import | ast.ImportFrom) -> bool:
    """torch itself, and what paints of diffusers, under their own names."""
    if any(alias.asname for alias in node.names):
        return False
    if isinstance(node, ast.Import):
        return all(alias.name == "torch" for alias in node.names)
    return node.module == "diffusers" and all(PAINTERS.fullmatch(alias.name) for alias in node.names)


def is_torch(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "torch"


def keeps_to_its_folder(nodes: list[ast.AST]) -> bool:
    """What touches files is called by its name, and what it saves or loads by name is a bare file name."""
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    seen = [node.func for node in calls if node.args]
    hidden = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr in CALLED and node not in seen]
    files = [arg for node in calls if getattr(node.func, "attr", "") == "save" for arg in node.args]
    files += [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "weight_name"]
    return not hidden and all(isinstance(it, ast.Constant) and FILE_NAME.fullmatch(str(it.value)) for it in files)


def run(trees: list[ast.Module], folder: Path, base: Path) -> list[str]:
    """Run them one after another, with this base and this adapter in place of those they name, in an empty folder."""
    code = "\n".join(placed(tree, folder, base) for tree in trees)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True,
                                  text=True, timeout=PATIENCE)  # fmt: skip
        except subprocess.TimeoutExpired:
            return [f"The snippet was not done after {PATIENCE} seconds."]
        painted = list(Path(empty).iterdir())
    if done.returncode:
        return [f"The snippet fails: {done.stderr.strip().splitlines()[-1]}."]
    if not painted and any("save" in attributes(tree) for tree in trees):
        return ["The snippet ran and saved no picture."]
    return []


def placed(tree: ast.Module, folder: Path, base: Path) -> str:
    """The block's code with the folders on this machine."""
    return ast.unparse(ast.fix_missing_locations(Placed(folder.resolve(), base.resolve()).visit(tree)))


class Placed(ast.NodeTransformer):
    """The folders on this machine in place of the ids that a snippet loads from."""

    def __init__(self, adapter: Path, base: Path):
        self.folders = {"from_pretrained": base, "load_lora_weights": adapter}

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        folder = self.folders.get(node.func.attr) if isinstance(node.func, ast.Attribute) else None
        if folder and node.args:
            node.args[0] = ast.Constant(str(folder))
        return node

"""Paint from a terminal.

python -m impressionism "a sailing boat on the sea at dawn" --strength 0.8 --seed 7 --out boat.png
python -m impressionism "a cottage at noon" --compare         also the base model's picture, as NAME-base.png
python -m impressionism "a cottage at noon" --sweep 0 0.5 1   one picture for each strength
python -m impressionism "a cottage at noon" --seeds 4         four pictures from four seeds
python -m impressionism "a boat on the sea" --repaint photo.jpg --change 0.6
python -m impressionism "a boat on the sea" --upscale boat.png --out large.png
python -m impressionism --from boat.png --out again.png   the same picture again, from the recipe in it
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impressionism import names
from impressionism.errors import UserError, status_of

if TYPE_CHECKING:  # imported where they are used: PyTorch takes seconds, --help should not
    from impressionism.paint import PaintRequest
    from impressionism.pipeline import Painter
    from impressionism.records import ImageMetadata

PARAMS = ("seed", "steps", "guidance", "width", "height")


def parser() -> argparse.ArgumentParser:
    prog = names.program("paint", "impressionism")
    result = argparse.ArgumentParser(
        prog=prog,
        description=(__doc__ or "").replace("python -m impressionism", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("prompt", nargs="?", help="what to paint, in English")
    add("--strength", type=float, help="-1 to 2; 0: the base model (default: what the adapter recommends, or 1)")
    add("--blocks", type=float, nargs=3, metavar=("TWO_STREAM", "EARLY", "LATE"),
        help="multiply the strength, 0 to 2, in the two-stream, early and late single-stream blocks")  # fmt: skip
    add("--fast", action="store_true", help="few steps, with the accelerator adapter")
    add("--seed", type=int, help="of the initial noise (default 0)")
    add("--steps", type=int, help="denoising steps (default: as suits the model)")
    add("--guidance", type=float, help="distilled guidance, 0 to 20 (default 3.5)")
    add("--width", type=int, help="pixels, a multiple of 16 (default: as suits the model)")
    add("--height", type=int, help="pixels, a multiple of 16 (default: as suits the model)")
    add("--out", type=Path, default=Path("picture.png"), help="the PNG to write (default picture.png)")
    kind = result.add_mutually_exclusive_group()
    kind.add_argument("--compare", action="store_true", help="also write the base model's picture, as NAME-base.png")
    kind.add_argument("--sweep", type=float, nargs="+", metavar="STRENGTH", help="one picture for each strength")
    kind.add_argument("--seeds", type=int, metavar="COUNT", help="one picture for each of 1 to 4 seeds, from --seed on")
    kind.add_argument("--repaint", type=Path, metavar="PICTURE", help="paint over this picture, in its shape")
    kind.add_argument("--upscale", type=Path, metavar="PICTURE", help="paint this picture at twice its size")
    add("--change", type=float, help="how much --repaint changes: 0.3 (default) keeps it, 0.8 reinvents it")
    add("--from", type=Path, dest="again", metavar="PNG", help="paint this picture again from its recipe")
    add_model_options(result)
    add("--model-revision", help="commit, tag or branch of the model on the Hub")
    add("--adapter-revision", help="commit, tag or branch of the adapter on the Hub")
    return result


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What paints, for every command that does; None stands for auto, except for the device."""
    add = parser.add_argument
    add("--model", help="auto, miniature, a Hub id or a folder (default auto)")
    add("--adapter", help="auto, none, a Hub id, a folder or a .safetensors file (default auto)")
    add("--quantize", help="auto, none, fp8, int8, nf4, int4 or int2 (default auto)")
    add("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default auto)")


def main(arguments: list[str] | None = None) -> int:
    return start(parser().parse_args(arguments), run)


def start(args: argparse.Namespace, run: Callable[[argparse.Namespace], None]) -> int:
    """Runs a command that paints; its exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors nobody uses
    return status_of(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Every mistake that can be seen without the model is told before it is loaded."""
    check_out(args.out)
    if args.model not in (None, "auto", "miniature"):
        from impressionism.hub import check_name

        check_name(args.model, args.model_revision)
    from impressionism.paint import paint_all, save

    painter, wanted = pictures_again(args) if args.again else new_pictures(args)
    pictures = paint_all(painter, [request for _, request in wanted], on_step=show)
    for (path, request), picture in zip(wanted, pictures, strict=True):
        print(save(picture, request.metadata, path), flush=True)


def check_out(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"{path.name} cannot carry a recipe; name the picture something.png.")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{path} cannot be written; name another file.")


def new_pictures(args: argparse.Namespace) -> tuple["Painter", list[tuple[Path, "PaintRequest"]]]:
    """The painter, and each file to write with what is painted into it."""
    from impressionism.files import read_picture
    from impressionism.paint import CHANGE, MOST_SEEDS, check, defaults, next_seeds, request, shaped_like
    from impressionism.pipeline import load_pipeline
    from impressionism.records import LIMITS, BlockStrengths, GenerationParams

    over = args.repaint or args.upscale
    if not args.prompt and not over:
        raise UserError(f'Say what to paint, as in: {names.program("paint", "impressionism")} "a sailing boat at dawn"')
    if args.change is not None and not over:
        raise UserError("--change says how far --repaint may go; name the picture with --repaint.")
    if args.sweep and args.strength is not None:
        raise UserError("--sweep names the strengths; leave out --strength.")
    if args.seeds is not None and not 1 <= args.seeds <= MOST_SEEDS:
        raise UserError(f"--seeds must be from 1 to {MOST_SEEDS}, not {args.seeds}.")
    given = {name: getattr(args, name) for name in PARAMS if getattr(args, name) is not None}
    blocks = BlockStrengths(**dict(zip(names.BLOCK_GROUPS, args.blocks or (), strict=False)))
    # What the model decides, its steps and its sizes, is checked again with it.
    params = GenerationParams(prompt=args.prompt or "", **({"steps": LIMITS["steps"][1]} | given))
    change = CHANGE if over and args.change is None else args.change
    for strength in args.sweep or [args.strength]:
        check(params, names.DEFAULT_STRENGTH if strength is None else strength, change, blocks)
    source = read_picture(over) if over else None

    painter = load_pipeline(
        args.model or "auto",
        args.adapter or "auto",
        args.quantize or "auto",
        args.device,
        model_revision=args.model_revision,
        adapter_revision=args.adapter_revision,
        fast=args.fast or None,
    )
    print(painter.about, flush=True)
    warn_of_words(painter, args.prompt or "")
    params = defaults(painter, args.prompt or "", args.fast)
    if args.repaint and source and not given.keys() & {"width", "height"}:
        params = shaped_like(painter, params, source)
    params = params.replace(**given)
    more: dict[str, Any] = {"blocks": blocks, "fast": args.fast}
    if over:
        more |= {"source": source, "change": args.change, "upscale": bool(args.upscale)}
    wanted = [("", params, args.strength)]  # what is added to the file's name, and what is painted into it
    if args.compare:
        wanted = [("-base", params, 0.0), *wanted]
    elif args.sweep:
        wanted = [(f"-{strength:g}", params, strength) for strength in args.sweep]
    elif args.seeds:
        wanted = [(f"-{one.seed}", one, args.strength) for one in next_seeds(params, args.seeds)]
    return painter, [
        (args.out.with_stem(args.out.stem + suffix), request(painter, one, strength, **more))
        for suffix, one, strength in wanted
    ]


def pictures_again(args: argparse.Namespace) -> tuple["Painter", list[tuple[Path, "PaintRequest"]]]:
    """The picture that a recipe describes; --model and --adapter say where its folders are now."""
    from impressionism.files import read_picture
    from impressionism.paint import again, check, read_recipe
    from impressionism.pipeline import load_pipeline
    from impressionism.records import Side, limits

    given = ["strength", "blocks", "change", "sweep", "seeds", *PARAMS]
    changed = [f"--{name}" for name in given if getattr(args, name) is not None]
    changed += ["--compare"] * args.compare + ["--fast"] * args.fast + ["the prompt"] * bool(args.prompt)
    if changed:
        raise UserError(f"--from paints what the recipe says; leave out {', '.join(changed)}.")
    recipe = read_recipe(args.again)
    check(recipe.sampling, recipe.strength, recipe.change, recipe.blocks, largest=limits(Side)[1])
    over = args.repaint or args.upscale
    if (recipe.source is None) != (over is None):
        option = "--upscale" if recipe.upscale else "--repaint"
        raise UserError(
            f"The picture was painted over another one; give that one with {option}."
            if recipe.source
            else "The picture was not painted over another one; leave out --repaint and --upscale."
        )
    source = read_picture(over) if over else None
    was = recipe.provenance
    painter = load_pipeline(
        args.model or findable(was.base, "--model"),
        args.adapter or (findable(was.adapter, "--adapter") if was.adapter else "none"),
        args.quantize or was.quantize,
        args.device,
        model_revision=args.model_revision or (commit(was.base_revision) if not args.model else None),
        adapter_revision=args.adapter_revision or (commit(was.adapter_revision) if not args.adapter else None),
        fast=recipe.fast or None,
    )
    print(painter.about, flush=True)
    request = again(painter, recipe, source)
    warn_of_differences(recipe, request.metadata)
    return painter, [(args.out, request)]


def findable(name: str, option: str) -> str:
    """A recipe knows the name of a folder, not where it lies."""
    if name == "miniature" or "/" in name or Path(name).exists():
        return name
    raise UserError(f"The picture was painted with the folder or file {name}; say where it is with {option}.")


def commit(revision: str | None) -> str | None:
    """A recipe's revision if it is a commit on the Hub; a digest of local files cannot be asked for."""
    return revision if revision and len(revision) == 40 else None


def warn_of_differences(was: "ImageMetadata", now: "ImageMetadata") -> None:
    old, new = was.provenance, now.provenance
    differing = [
        f"{name} was {before}, is {after}"
        for name, before, after in (
            ("the base's weights", old.base_revision, new.base_revision),
            ("the adapter's weights", old.adapter_revision, new.adapter_revision),
            ("the accelerator's weights", old.accelerator_revision, new.accelerator_revision),
            ("the quantization", old.quantize, new.quantize),
            ("the precision", old.dtype, new.dtype),
            ("the device", old.device, new.device),
            ("the source picture", was.source, now.source),
            *((library, old.versions.get(library), new.versions.get(library)) for library in sorted(new.versions)),
        )
        if before != after
    ]
    if differing:
        print(f"The picture may come out different: {'; '.join(differing)}.", file=sys.stderr)


def warn_of_words(painter: "Painter", prompt: str) -> None:
    """What of the prompt the model will not follow."""
    from impressionism.paint import cut_at, unknown_words

    if unknown := unknown_words(painter, prompt):
        print(
            f"The miniature does not know: {', '.join(unknown)}. It knows {', '.join(names.SUBJECTS)}, "
            f"{', '.join(names.LIGHTS)}.",
            file=sys.stderr,
        )
    if unread := cut_at(painter, prompt):
        print(f"The prompt is too long: the model ignores everything from “{unread[:60]}” on.", file=sys.stderr)


def show(step: int, steps: int, _: object) -> None:
    """On one line of a terminal; elsewhere, in a log, a line for each quarter."""
    if sys.stderr.isatty():
        print(f"\rstep {step} of {steps}", end="\n" if step == steps else "", file=sys.stderr, flush=True)
    elif 4 * step // steps > 4 * (step - 1) // steps:
        print(f"step {step} of {steps}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

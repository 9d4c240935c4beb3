"""Paint from a terminal.

python -m impressionism "a sailing boat on the sea at dawn" --strength 1 --seed 7 --out boat.png
python -m impressionism "a haystack" --compare            the base model's picture beside it, as NAME-base.png
python -m impressionism "a haystack" --sweep 0 0.5 1      one picture a strength
python -m impressionism "a boat on the sea" --repaint photo.jpg --change 0.6
python -m impressionism --from boat.png --out again.png   the same picture again, from the recipe in it
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impressionism.errors import UserError
from impressionism.hub import check_name

if TYPE_CHECKING:  # imported where they are used: PyTorch takes seconds, --help should not
    from PIL.Image import Image

    from impressionism.pipeline import Painter
    from impressionism.records import GenerationParams, ImageMetadata

SAMPLING = ("seed", "steps", "guidance", "width", "height")
STRENGTH = 1.0  # where none is asked for


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m impressionism",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("prompt", nargs="?", help="what to paint, in English")
    add("--strength", type=float, help="-1 to 2; 0: the base model, 1: the adapter as trained (default)")
    add("--seed", type=int, help="of the initial noise (default 0)")
    add("--steps", type=int, help="denoising steps (default: as suits the model)")
    add("--guidance", type=float, help="distilled guidance, 0 to 20 (default 3.5)")
    add("--width", type=int, help="pixels, a multiple of 16 (default: as suits the model)")
    add("--height", type=int, help="pixels, a multiple of 16 (default: as suits the model)")
    add("--out", type=Path, default=Path("picture.png"), help="the PNG to write (default picture.png)")
    kind = result.add_mutually_exclusive_group()
    kind.add_argument("--compare", action="store_true", help="also write the base model's picture, as NAME-base.png")
    kind.add_argument("--sweep", type=float, nargs="+", metavar="STRENGTH", help="one picture for each strength")
    kind.add_argument("--repaint", type=Path, metavar="PICTURE", help="paint over this picture or photograph")
    add("--change", type=float, help="how much --repaint changes: 0.3 (default) keeps it, 0.8 reinvents it")
    add("--from", type=Path, dest="again", metavar="PNG", help="paint this picture again from its recipe")
    add("--model", help="auto, miniature, a Hub id or a folder (default auto)")
    add("--model-revision", help="commit, tag or branch of the model on the Hub")
    add("--adapter", help="auto, none, a Hub id, a folder or a .safetensors file (default auto)")
    add("--adapter-revision", help="commit, tag or branch of the adapter on the Hub")
    add("--quantize", help="auto, none, fp8, int8, nf4, int4 or int2 (default auto)")
    add("--device", default="auto", help="auto, cuda, cuda:1, mps or cpu (default auto)")
    return result


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of image processors nobody uses
    try:
        check_files(args)
        paint_again(args) if args.again else paint_new(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def check_files(args: argparse.Namespace) -> None:
    """What is wrong with the names, before anything is loaded."""
    if args.out.suffix.lower() != ".png":
        raise UserError(f"{args.out.name} cannot carry a recipe; name the picture something.png.")
    nearest = next(folder for folder in args.out.absolute().parents if folder.exists())
    if args.out.is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{args.out} cannot be written; name another file.")
    if args.model not in (None, "auto", "miniature"):
        check_name(args.model, args.model_revision)


def paint_new(args: argparse.Namespace) -> None:
    import dataclasses

    from impressionism.paint import defaults, open_image
    from impressionism.pipeline import load_pipeline

    if not args.prompt:
        raise UserError('Say what to paint, as in: python -m impressionism "a sailing boat on the sea at dawn"')
    if args.change is not None and not args.repaint:
        raise UserError("--change says how far --repaint may go; name the picture with --repaint.")
    if args.sweep and args.strength is not None:
        raise UserError("--sweep names the strengths; leave out --strength.")
    given = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    check_wishes(args, given)
    source = open_image(args.repaint) if args.repaint else None
    painter = load_pipeline(
        args.model or "auto",
        args.adapter or "auto",
        args.quantize or "auto",
        args.device,
        model_revision=args.model_revision,
        adapter_revision=args.adapter_revision,
    )
    print(painter.about)
    paint_as_asked(args, painter, dataclasses.replace(defaults(painter, args.prompt), **given), source)


def check_wishes(args: argparse.Namespace, given: dict[str, Any]) -> None:
    """Refuses what no model can paint; what the model decides, its steps and its largest size, is checked with it."""
    from impressionism.paint import LIMITS, check
    from impressionism.records import GenerationParams

    sampling = GenerationParams(prompt=args.prompt, **({"steps": LIMITS["steps"][1]} | given))
    for strength in args.sweep or [args.strength]:
        check(sampling, STRENGTH if strength is None else strength, args.change)


def paint_as_asked(
    args: argparse.Namespace, painter: "Painter", sampling: "GenerationParams", source: "Image | None"
) -> None:
    """One picture, a pair, a row, or a repaint."""
    from impressionism.paint import CHANGE, compare, paint, recipe_of, repaint, sweep

    strength = STRENGTH if args.strength is None else args.strength
    if args.compare:
        base, adapted = compare(painter, sampling, strength, on_step=show)
        write(base, recipe_of(painter, sampling, 0.0), args.out.with_name(f"{args.out.stem}-base.png"))
        write(adapted, recipe_of(painter, sampling, strength), args.out)
    elif args.sweep:
        for each, picture in sweep(painter, sampling, args.sweep, on_step=show):
            name = f"{args.out.stem}-{each:g}{args.out.suffix}"
            write(picture, recipe_of(painter, sampling, each), args.out.with_name(name))
    elif source is not None:
        change = CHANGE if args.change is None else args.change
        picture = repaint(painter, sampling, strength, source, change, on_step=show)
        write(picture, recipe_of(painter, sampling, strength, source, change), args.out)
    else:
        write(paint(painter, sampling, strength, on_step=show), recipe_of(painter, sampling, strength), args.out)


def paint_again(args: argparse.Namespace) -> None:
    """The picture that a recipe describes; --model and --adapter say where its folders are now."""
    from impressionism.paint import again, check, open_image, paint_all, read_recipe
    from impressionism.pipeline import load_pipeline

    given = ["strength", "change", "sweep", *SAMPLING]
    changed = [f"--{name}" for name in given if getattr(args, name) is not None]
    changed += ["--compare"] * args.compare + ["the prompt"] * bool(args.prompt)
    if changed:
        raise UserError(f"--from paints what the recipe says; leave out {', '.join(changed)}.")
    recipe = read_recipe(args.again)
    check(recipe.sampling, recipe.strength, recipe.change)
    if (recipe.source is None) != (args.repaint is None):
        raise UserError(
            "The picture was painted over another one; give that one with --repaint."
            if recipe.source
            else "The picture was not painted over another one; leave out --repaint."
        )
    source = open_image(args.repaint) if args.repaint else None
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
    print(painter.about)
    request = again(painter, recipe, source)
    warn_of_differences(recipe, request.metadata)
    [picture] = paint_all(painter, [request], on_step=show)
    write(picture, request.metadata, args.out)


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


def write(picture: "Image", recipe: "ImageMetadata", path: Path) -> None:
    from impressionism.paint import save

    print(f"{save(picture, recipe, path)}")


def show(step: int, steps: int, _: object) -> None:
    if sys.stderr.isatty():
        print(f"\rstep {step} of {steps}", end="\n" if step == steps else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

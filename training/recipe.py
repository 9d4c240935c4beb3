"""A recipe: read from YAML, overridden by `section.key=value`, and checked; options.py has its keys.

Every problem is reported at once, with its path, before anything is loaded. `recipes/` holds the shipped.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from impressionism.errors import UserError
from training.options import TrainingConfig

SHIPPED = Path(__file__).parent / "recipes"


def read(path: Path, overrides: list[str] | None = None) -> TrainingConfig:
    """The recipe at `path` with `section.key=value` laid over it; raises UserError with every problem."""
    values = _load(path)
    run = values.setdefault("run", {})
    if isinstance(run, dict):
        run.setdefault("folder", f"runs/{path.stem}")
    return _checked(values, overrides or [], str(path))


def changed(recipe: TrainingConfig, overrides: list[str]) -> TrainingConfig:
    """The recipe with `section.key=value` laid over it; raises UserError with every problem."""
    return _checked(recipe.model_dump(mode="json"), overrides, "with " + " ".join(overrides))


def _checked(values: dict[str, Any], overrides: list[str], where: str) -> TrainingConfig:
    problems = [problem for override in overrides for problem in _override(values, override)]
    try:
        recipe = TrainingConfig.model_validate(values)
    except ValidationError as error:
        problems += [_sentence(details) for details in error.errors()]
    if problems:
        raise UserError(f"{where}: " + "; ".join(problems) + ".")
    return recipe


def differences(first: TrainingConfig, second: TrainingConfig, *, besides: tuple[str, ...] = ()) -> list[str]:
    """One phrase for each key in which two recipes differ, some sections and keys left aside."""
    here = second.model_dump(mode="json")
    return [
        f"{section}.{key} is {value!r} there and {here[section][key]!r} here"
        for section, there in first.model_dump(mode="json").items()
        for key, value in there.items()
        if here[section][key] != value and not {section, f"{section}.{key}"} & set(besides)
    ]


def _load(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        shipped = ", ".join(sorted(recipe.name for recipe in SHIPPED.glob("*.yaml")))
        raise UserError(f"{path}: cannot be read ({error.strerror}); training/recipes has {shipped}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: should hold the sections {', '.join(TrainingConfig.model_fields)}.")
    return values


def _override(values: dict[str, Any], override: str) -> list[str]:
    """Lay `section.key=value` over `values`; what is wrong with it, if anything."""
    path, equals, text = override.partition("=")
    section, dot, key = path.partition(".")
    if not equals or not dot:
        return [f"{override!r} should read section.key=value"]
    if not isinstance(values.setdefault(section, {}), dict):
        return []  # the section itself is wrong, and the validation says so
    try:
        values[section][key] = yaml.safe_load(text)
    except yaml.YAMLError:
        return [f"{path}: {text!r} is no YAML value"]
    return []


def _sentence(details: Any) -> str:
    location = [str(part) for part in details["loc"]]
    path = ".".join(location)
    if details["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        return f"{path}: no such key ({hint})"
    if details["type"] == "missing":
        return f"{path}: is missing"
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = "" if details["type"] == "value_error" else f", not {details['input']!r}"
    return f"{path}: {message}{given}"


def _keys(location: list[str]) -> list[str]:
    fields = TrainingConfig.model_fields
    for part in location:
        fields = fields[part].annotation.model_fields  # type: ignore[union-attr]
    return list(fields)

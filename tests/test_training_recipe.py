from pathlib import Path

import pytest

from impressionism.errors import UserError
from training import __main__ as command
from training import recipe as recipes

SHIPPED = sorted(recipes.SHIPPED.glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_reads(path):
    recipe = recipes.read(path)
    assert recipe.run.folder == Path("runs") / path.stem


def test_overrides_win_and_take_their_type(tmp_path):
    path = write(tmp_path, "data: {source: here}\nadapter: {rank: 4}")
    overrides = [
        "adapter.rank=8",
        "optimizer.learning_rate=1e-3",
        "data.resolution=[64x64, 96x64]",
        "data.instance_prompt=",
    ]
    recipe = recipes.read(path, overrides)
    assert (recipe.adapter.rank, recipe.optimizer.learning_rate) == (8, 1e-3)
    assert recipe.data.resolution == ("64x64", "96x64")
    assert recipe.data.instance_prompt is None


def test_all_problems_are_told_at_once_with_their_paths(tmp_path):
    path = write(
        tmp_path,
        """
        data: {resolution: 100, held_out: 2}
        adapter: {rnk: 8, rank: many, targets: everything}
        optimizer: {steps: 10, warmup: 20}
        flow: {shift: -1}
        previews: {every: 3}
        """,
    )
    with pytest.raises(UserError) as error:
        recipes.read(path, ["run.seeed=3", "steps=4"])
    message = str(error.value)
    for part in (
        "data.source: is missing", "data.resolution: should be a multiple of 16", "data.held_out: ",
        "adapter.rnk: no such key (did you mean rank?)", "adapter.rank: ", "not 'many'", "adapter.targets: ",
        "optimizer: lr_warmup_steps (20) should be shorter than steps (10)", "flow.shift: ", "previews: no such key",
        "run.seeed: no such key (did you mean seed?)", "'steps=4' should read section.key=value",
    ):  # fmt: skip
        assert part in message
    assert "\n" not in message


def test_a_recipe_that_is_missing_or_no_yaml_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*\b8gb\.yaml.*\bminiature\.yaml"):
        recipes.read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is not YAML"):
        recipes.read(write(tmp_path, "data: [1"))


def test_the_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = recipes.read(SHIPPED[0], ["adapter.rank=2"])
    assert recipes.read(write(tmp_path, recipe.to_yaml())) == recipe
    other = recipes.read(SHIPPED[0], ["adapter.rank=3"])
    assert recipes.differences(recipe, other) == ["adapter.rank is 2 there and 3 here"]


@pytest.mark.parametrize("beside", ["quantize: nf4", "quantize: none, offload: 2"])
def test_only_an_unquantized_base_on_the_card_is_sharded(tmp_path, beside):
    with pytest.raises(UserError, match="model: shard works with quantize none and offload 0 only"):
        recipes.read(write(tmp_path, f"data: {{source: here}}\nmodel: {{shard: true, {beside}}}"))


def test_keys_may_follow_options_and_nothing_else_may(capsys):
    recipe = str(SHIPPED[0].with_name("8gb.yaml"))
    said = []
    for order in (["optimizer.train_batch_size=2", "--vram", "24"], ["--vram", "24", "optimizer.train_batch_size=2"]):
        assert command.main(["plan", recipe, "--json", *order]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    with pytest.raises(SystemExit):
        command.main(["plan", recipe, "--vram", "24", "batch", "--vrma=8"])
    assert "unrecognized arguments: batch --vrma=8" in capsys.readouterr().err


def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, "data: {source: here}\noptimizer:\n  steps: 10\noptimizer:\n  batch: 2\n")
    with pytest.raises(UserError, match="'optimizer' in line 4 is there already, in line 2"):
        recipes.read(path)


@pytest.mark.parametrize("text", ["painting #3 by mntp", "a boat: by mntp", "1890", "yes", "[mntp]", "a\\b"])
def test_a_text_on_the_command_line_is_taken_as_typed(tmp_path, text):
    path = write(tmp_path, "data: {source: here}")
    recipe = recipes.read(path, [f"data.instance_prompt={text}", f"preview.prompts=['{text}', other #2]"])
    assert recipe.data.instance_prompt == text
    assert recipe.preview.prompts == (text, "other #2")


@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_nothing_means_the_default(tmp_path, nothing):
    path = write(tmp_path, f"data: {{source: here}}\noptimizer: {nothing}\nadapter:\n  rank: {nothing}\n")
    recipe = recipes.read(path, [f"data.instance_prompt={nothing}", f"run.seed={nothing}"])
    assert recipe.optimizer == recipes.Optimizer() and recipe.adapter == recipes.Adapter()
    assert recipe.run.seed == 0 and recipe.data.instance_prompt is None


def test_keys_have_old_names_too_but_not_both(tmp_path):
    old = "optimizer: {rate: 1e-3, batch: 2, accumulate: 3, clip: 2, warmup: 4, schedule: cosine}"
    path = write(tmp_path, f"data: {{source: here}}\n{old}\ntune: {{rates: [1e-4, 1e-3]}}")
    options = recipes.read(path, ["optimizer.batch=5", "optimizer.learning_rate=2e-3"]).optimizer
    assert (options.learning_rate, options.train_batch_size, options.gradient_accumulation_steps) == (2e-3, 5, 3)
    assert (options.max_grad_norm, options.lr_warmup_steps, options.lr_scheduler) == (2, 4, "cosine")
    both = write(tmp_path, "data: {source: here}\noptimizer: {rate: 1e-3, learning_rate: 1e-4}")
    with pytest.raises(UserError, match=r"optimizer\.rate: is the old name of learning_rate, which is there too"):
        recipes.read(both)


def test_a_shipped_recipe_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "48gb").mkdir()  # a folder is no recipe
    assert recipes.read(Path("48gb")) == recipes.read(recipes.SHIPPED / "48gb.yaml")

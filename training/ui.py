"""The training page: pictures, captions, plan, training, previews and upload in a browser.

    python -m training ui [--folder adapters] [--port 7861]

It starts the commands that a terminal would (`plan`, `caption`, `fit`, `push`) and reads the files that they write, so
a run can be begun here and continued there. For each adapter the folder has `pictures/` (with captions in
metadata.jsonl), `recipe.yaml` and `run/`.
"""

import io
import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from impressionism.errors import UserError, check_port
from impressionism.files import PICTURE_SUFFIXES, clean_text, pictures_in, read_picture, read_text, write_atomic
from impressionism.plots import training_loss
from impressionism.theme import STYLE, theme, title
from training.recipe import SHIPPED, read
from training.sources import SIDECARS, json_lines

RECIPES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
JOB = """hf upload USER/{name}-pictures {pictures} . --repo-type dataset --private
hf jobs uv run --flavor l40sx1 --timeout {hours}h --secrets HF_TOKEN -v hf://buckets/USER/runs:/runs \\
  --with "flux-impressionism[train] @ git+https://github.com/USER/flux-impressionism" \\
  training/jobs/train.py {recipe} --folder /runs/{name} --repo USER/{name} \\
  data.source=USER/{name}-pictures {overrides}"""
RENTED_GIB = "48"  # of the flavor above
LINES_SHOWN = 12  # of a command's output


@dataclass(frozen=True)
class Project:
    """One adapter's folder."""

    folder: Path

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def captions(self) -> list[list[str]]:
        """[file, caption] of each picture."""
        file = self.pictures / "metadata.jsonl"
        lines = json_lines(file, ("file_name",)) if file.exists() else []
        known = {line["file_name"]: line.get("text", "") for line in lines}
        return [[path.name, known.get(path.name, "")] for path in pictures_in(self.pictures)[0]]

    def save_captions(self, rows: Sequence[Sequence[str]]) -> None:
        lines = [json.dumps({"file_name": file, "text": clean_text(str(text or ""))}, ensure_ascii=False) + "\n"
                 for file, text in rows if file]  # fmt: skip
        write_atomic(self.pictures / "metadata.jsonl", "".join(lines))

    def add(self, files: Sequence[str]) -> list[str]:
        """Copy dropped pictures, and captions in text files of the same name; what was left out, and why."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        left_out, captions = [], dict(self.captions())
        is_text = {Path(file): Path(file).suffix.lower() in SIDECARS for file in files}
        for file in sorted(is_text, key=lambda file: is_text[file]):  # pictures first: a text needs its own
            try:
                if is_text[file]:
                    text = read_text(file).strip()
                    own = [name for name in captions if Path(name).stem == file.stem]
                    captions |= dict.fromkeys(own, text)
                    left_out += [] if own else [f"{file.name} has no picture of the same name; drop both together."]
                    continue
                read_picture(content := file.read_bytes(), name=file.name)
            except ValueError as error:
                left_out.append(str(error))
                continue
            write_atomic(self.pictures / file.name, content)
            captions.setdefault(file.name, "")
        if captions:
            self.save_captions(list(captions.items()))
        return left_out

    def overrides(self, recipe: str, steps: float, instance_prompt: str, prompts: str, more: str) -> list[str]:
        lines, others = ([line.strip() for line in text.splitlines() if line.strip()] for text in (prompts, more))
        warmup = min(read(Path(recipe)).optimizer.lr_warmup_steps, int(steps) // 10)
        return [
            f"optimizer.steps={int(steps)}",
            f"optimizer.lr_warmup_steps={warmup}",
            f"data.instance_prompt={instance_prompt}",
            f"preview.prompts={json.dumps(lines, ensure_ascii=False)}",
            *others,
        ]

    def write_recipe(self, name: str, overrides: list[str]) -> None:
        own = [f"data.source={self.pictures}", f"run.folder={self.run}", f"run.cache={self.folder.parent / 'cache'}"]
        write_atomic(self.recipe, read(Path(name), [*own, *overrides]).to_yaml())

    def losses(self) -> Image.Image | None:
        """The plot of log.jsonl."""
        file = self.run / "log.jsonl"
        lines = json_lines(file, ("step",)) if file.exists() else []
        return Image.open(io.BytesIO(training_loss(lines))) if lines else None

    def previews(self) -> list[tuple[str, str]]:
        """The pictures of the last step that was painted."""
        steps = sorted((self.run / "previews").glob("step-*"))
        return [(str(file), steps[-1].name) for file in sorted(steps[-1].glob("*.png"))] if steps else []


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "training", *map(str, arguments)]


def refusal(sentence: str) -> gr.Error:
    return gr.Error(sentence, duration=None, print_exception=False)


@contextmanager
def said_on_the_page() -> Iterator[None]:
    """A UserError's sentence, in place of the bare word "Error"."""
    try:
        yield
    except UserError as error:
        raise refusal(str(error)) from None


def output_of(*arguments: str | Path) -> str:
    """What a command says; its sentence as the page's error where it fails."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True)
    if done.returncode:
        raise refusal((done.stderr.strip().splitlines() or ["It failed without a message."])[-1])
    return done.stdout


class Page:
    """The events. Runs that were started here go on while the page is closed; a project has one at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.running: dict[Path, subprocess.Popen] = {}

    def project(self, name: str) -> Project:
        if not re.fullmatch(r"[\w.-]{1,60}", name or "") or name.startswith("."):
            raise refusal("Give the adapter a name of letters, digits, - and _, without spaces.")
        return Project(self.folder / name)

    def with_pictures(self, name: str) -> Project:
        project = self.project(name)
        if not project.pictures.is_dir() or not project.captions():
            raise refusal("Add pictures first: drop them in step 1.")
        return project

    @said_on_the_page()
    def add(self, name: str, files: list[str] | None) -> tuple[list[list[str]], list[str], None]:
        """The last value clears the field, so that more can be dropped."""
        if left_out := self.project(name).add(files or []):
            gr.Warning("Left out: " + " ".join(left_out))
        return *self.show_pictures(name), None

    def show_pictures(self, name: str) -> tuple[list[list[str]], list[str]]:
        project = self.project(name)
        rows = project.captions() if project.pictures.is_dir() else []
        return rows, [str(project.pictures / file) for file, _ in rows]

    @said_on_the_page()
    def save_captions(self, name: str, rows: list[list[str]]) -> None:
        self.with_pictures(name).save_captions(rows)
        gr.Info("Captions saved.")

    @said_on_the_page()
    def describe(self, name: str, recipe: str, *settings: Any) -> list[list[str]]:
        """`caption` writes captions with a vision-language model; they become the table's."""
        project = self.with_pictures(name)
        project.write_recipe(recipe, project.overrides(recipe, *settings))
        written = project.folder / "captions.jsonl"
        output_of("caption", project.recipe, f"data.captions={written}")
        known = {line["name"]: line["full"] for line in json_lines(written, ("name", "full"))}
        project.save_captions([[file, text or known.get(file, "")] for file, text in project.captions()])
        return project.captions()

    @said_on_the_page()
    def plan(self, name: str, recipe: str, vram: float | None, price: float, *settings: Any) -> tuple[str, str, str]:
        project = self.with_pictures(name)
        overrides = project.overrides(recipe, *settings)
        project.write_recipe(recipe, overrides)
        size = ["--vram", str(vram)] if vram else []
        text = output_of("plan", project.recipe, *size)
        hours = json.loads(output_of("plan", project.recipe, "--json", "--vram", RENTED_GIB))["hours"]
        time = f"{hours:.1f} hours" if hours >= 1 else f"{math.ceil(60 * hours)} min"
        cost = (f"On a rented GPU with {RENTED_GIB} GB: **{time}** and about **${hours * price:.2f}** at ${price:g} an "
                "hour; `hf jobs hardware` lists prices. The plan for this machine is below.")  # fmt: skip
        job = JOB.format(name=name, pictures=shlex.quote(str(project.pictures)), hours=max(1, math.ceil(1.5 * hours)),
                         recipe=recipe, overrides=shlex.join(overrides))  # fmt: skip
        return text, cost, job

    def start(self, name: str) -> str:
        project = self.project(name)
        if not project.recipe.exists():
            raise refusal("Plan it first, in step 2: that writes the recipe.")
        if self.is_running(project):
            raise refusal(f"{name} is training already. To begin again with another plan, stop it first.")
        with (project.folder / "fit.txt").open("wb") as output:
            self.running[project.folder] = subprocess.Popen(
                command("fit", project.recipe), stdout=output, stderr=subprocess.STDOUT
            )
        return "Training."

    def stop(self, name: str) -> str:
        project = self.project(name)
        if not self.is_running(project):
            raise refusal(f"{name} is not training, so there is nothing to stop.")
        self.running[project.folder].send_signal(signal.SIGTERM)
        return "It saves the step and stops. Click Train here to continue."

    def is_running(self, project: Project) -> bool:
        return project.folder in self.running and self.running[project.folder].poll() is None

    def watch(self, name: str) -> tuple[str, Any, Any, list[tuple[str, str]], str]:
        """Every two seconds: the state, the losses, the sheet of previews, the last previews, the command's output."""
        try:
            project = self.project(name)
        except gr.Error as error:
            return error.message, gr.skip(), gr.skip(), [], ""
        file, sheet = project.folder / "fit.txt", project.run / "previews" / "sheet.jpg"
        lines = re.split(r"[\r\n]+", read_text(file).strip()) if file.exists() else []
        if self.is_running(project):
            state = "Training."
        elif (project.run / "run.json").exists():
            state = f"Finished. The adapter is in `{project.run / 'adapter'}`."
        else:
            state = (
                "Stopped. Click Train here to continue." if (project.run / "recipe.yaml").exists() else "Not started."
            )
        losses, previews = project.losses(), str(sheet) if sheet.exists() else None
        plot, sheet = (gr.update(value=each, visible=each is not None) for each in (losses, previews))
        return state, plot, sheet, project.previews(), "\n".join(lines[-LINES_SHOWN:])

    def push(self, name: str, repo: str, private: bool, dry_run: bool) -> str:
        project = self.project(name)
        if self.is_running(project) or not (project.run / "run.json").exists():
            raise refusal("Train the adapter first, in step 3: only a finished run can be published.")
        options = [*(["--repo", repo] if repo else []), *["--private"] * private, *["--dry-run"] * dry_run]
        done = subprocess.run(command("push", project.recipe, *options), capture_output=True, text=True)
        return done.stderr + done.stdout


def steps_of(recipe: str) -> int | None:
    """The steps of a shipped recipe; of a name that is still being typed, none."""
    return read(Path(recipe)).optimizer.steps if recipe in RECIPES else None


def build(folder: Path) -> gr.Blocks:
    page = Page(folder)
    known = sorted(path.name for path in folder.iterdir() if (path / "pictures").is_dir()) if folder.is_dir() else []
    usual = "dreambooth" if shutil.which("nvidia-smi") else "miniature"  # FLUX.1-dev cannot be trained without a GPU
    with gr.Blocks(title="Train an adapter", analytics_enabled=False) as blocks:
        title("Train an adapter from your own pictures, on this machine or on a rented GPU.")
        with gr.Row():
            name = gr.Dropdown(known, value="my-style", allow_custom_value=True, scale=0, min_width=320, elem_id="name",
                               label="Name of the adapter", info="A new one, or one that you began.")  # fmt: skip
        with gr.Tab("1 Pictures"):
            files = gr.File(file_count="multiple", file_types=[*sorted(PICTURE_SUFFIXES), *SIDECARS],
                            label="Drop pictures, and text files of the same name with their captions")  # fmt: skip
            gallery = gr.Gallery(show_label=False, columns=8, height=180)
            captions = gr.Dataframe(headers=["picture", "caption"], datatype="str", type="array", interactive=True,
                                    wrap=True, column_count=2, elem_id="captions", label="Captions")  # fmt: skip
            with gr.Row():
                save = gr.Button("Save captions", variant="primary")
                describe = gr.Button("Let a model write the missing captions")
        with gr.Tab("2 Plan"):
            with gr.Row():
                recipe = gr.Dropdown(RECIPES, value=usual, label="Recipe", elem_id="recipe")
                steps = gr.Number(steps_of(usual), label="Steps", precision=0, minimum=1, elem_id="steps")
                vram = gr.Number(0, label="GPU memory, GB (0: here)")
                price = gr.Number(1.8, label="Price of a GPU hour in $")
            instance_prompt = gr.Textbox("a painting by mntp", label="Caption of pictures that have none")
            prompts = gr.Textbox("a sailing boat on the sea at dawn, by mntp", lines=2, elem_id="prompts",
                                 label="Prompts to preview, one per line")  # fmt: skip
            more = gr.Textbox("", lines=2, label="Other settings, one section.key=value per line", elem_id="more")
            plan = gr.Button("Plan", variant="primary")
            cost, text = gr.Markdown(), gr.Code(label="Plan", language=None)
            job = gr.Code(label="On a rented GPU: run these lines in a terminal", language="shell")
        with gr.Tab("3 Train"):
            with gr.Row():
                start, stop = gr.Button("Train here", variant="primary"), gr.Button("Stop")
            state = gr.Markdown(elem_id="state")
            losses = gr.Image(label="Loss", interactive=False, elem_id="losses", visible=False)
            sheet = gr.Image(label="Previews: a row for each step, a column for each prompt", interactive=False,
                             elem_id="sheet", visible=False)  # fmt: skip
            output = gr.Code(label="Output", language=None)
        with gr.Tab("4 Publish"):
            painted = gr.Gallery(label="Latest previews", columns=4, elem_id="latest")
            with gr.Row():
                repo = gr.Textbox(label="Repository", placeholder="USER/NAME (default: yours and the run's name)")
                private, dry_run = (
                    gr.Checkbox(True, label="Private"),
                    gr.Checkbox(True, label="Dry run: only list what would be sent"),
                )
            push = gr.Button("Push to the Hub", variant="primary")
            pushed = gr.Code(label="Output", language=None, elem_id="pushed")

        settings = [steps, instance_prompt, prompts, more]
        files.upload(page.add, [name, files], [captions, gallery, files])
        name.change(page.show_pictures, name, [captions, gallery])
        save.click(page.save_captions, [name, captions])
        describe.click(page.describe, [name, recipe, *settings], captions)
        recipe.change(steps_of, recipe, steps)
        plan.click(page.plan, [name, recipe, vram, price, *settings], [text, cost, job])
        start.click(page.start, name, state)
        stop.click(page.stop, name, state)
        push.click(page.push, [name, repo, private, dry_run], pushed)
        gr.Timer(2).tick(page.watch, name, [state, losses, sheet, painted, output], show_progress="hidden")
    return blocks


def launch(blocks: gr.Blocks, folder: Path, **more: Any) -> str:
    """Serves the page and returns its address; pictures of this folder may be shown."""
    _, address, _ = blocks.launch(
        theme=theme(), css_paths=STYLE, footer_links=[], allowed_paths=[str(folder)], ssr_mode=False, **more
    )
    return address


def ui(folder: Path, port: int | None) -> None:
    """The command."""
    check_port("127.0.0.1", port)
    folder = folder.absolute()
    launch(build(folder), folder, server_name="127.0.0.1", server_port=port, inbrowser=sys.stdout.isatty())

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import yaml
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)

from impressionism.errors import UserError
from training import caption as command
from training import captioner, examples
from training.caption import caption, parse, prompt_for, shorten
from training.content import content_of, style_words
from training.recipe import TrainingConfig

GOOD = {"full": "an impressionist painting of a boat at dawn, in loose brushstrokes", "content": "A boat at dawn."}


class Server(ThreadingHTTPServer):
    """Speaks as an OpenAI-compatible server does; `answer` is given the number of the request and what was asked."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked, self.keys = answer, [], []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """A client that is killed in the middle is what a test may want."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.keys.append(self.headers["Authorization"])
            number = len(self.server.asked)
        status, headers, text = self.server.answer(number, body)
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *_):
        """Not into the tests' output."""


def said(text, status=200, **headers):
    """An answer with this text as the model's."""
    text = text if isinstance(text, str) else json.dumps(text)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": {}}
    return status, headers, json.dumps(whole)


def cut(number, body):
    """Half an answer: the connection ends before the content does."""
    return 200, {"Content-Length": 5000}, '{"choices": ['


@pytest.fixture
def serve():
    servers = []

    def start(answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def paint(folder, count, *, caption=None, genre=None):
    lines = []
    for index in range(count):
        Image.new("RGB", (90, 60), (index, 40, 120)).save(folder / f"{index:02}.png")
        lines.append({"file_name": f"{index:02}.png", "text": caption, "genre": genre})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def recipe(folder, **options) -> TrainingConfig:
    data = {"source": str(folder), "captions": str(folder.parent / "captions.jsonl"), "resolution": 32}
    return TrainingConfig.model_validate(
        {"data": data, "caption": {"model": "m", **options}, "model": {"device": "cpu"}}
    )


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder.parent / "captions.jsonl").read_text().splitlines()]


def test_each_picture_gets_a_line_that_training_reads(pictures, serve, capsys):
    paint(pictures, 3, genre="landscape")
    server = serve(lambda number, body: said(GOOD))
    caption(recipe(pictures, endpoint=server.url, side=64))
    assert sorted(line["name"] for line in lines_of(pictures)) == ["00.png", "01.png", "02.png"]
    assert lines_of(pictures)[0] | {"id": "", "name": ""} == {
        "id": "", "name": "", "full": GOOD["full"], "content": "a boat at dawn", "model": "m", "genre": "landscape",
    }  # fmt: skip
    read = examples.read(recipe(pictures).data)
    assert {(example.caption, example.content) for example in read} == {
        (GOOD["full"], "an impressionist painting of a boat at dawn")
    }
    image, text = server.asked[0]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert "time of day" in text["text"] and server.asked[0]["response_format"] == {"type": "json_object"}
    assert "3 pictures have captions." in capsys.readouterr().err


def test_the_prompt_asks_for_what_matters_in_the_genre():
    genres = ("landscape", "self-portrait", "Cityscape", "still_life", "genre_painting", None)
    asked = [prompt_for(genre, trigger="t", max_words=9) for genre in genres]
    matters = ("weather", "gaze", "vehicles", "arranged", command.ANY_GENRE, command.ANY_GENRE)
    assert all(word in prompt for word, prompt in zip(matters, asked, strict=True))
    assert asked[4] == asked[5] and len(set(asked)) == 5


def test_a_server_that_is_busy_broken_or_cut_off_is_asked_again(pictures, serve):
    paint(pictures, 1)
    troubles = [
        lambda *_: said("wait", 429, **{"Retry-After": "0.3"}),
        lambda *_: said("broken", 500),
        cut,
        lambda *_: said(GOOD),
    ]
    times = []

    def answer(number, body):
        times.append(time.monotonic())
        return troubles[number - 1](number, body)

    caption(recipe(pictures, endpoint=serve(answer).url))
    assert len(times) == 4 and len(lines_of(pictures)) == 1
    assert times[1] - times[0] >= 0.3


def test_a_server_that_does_not_answer_is_given_up_after_a_while(pictures, serve, capsys, monkeypatch):
    monkeypatch.setattr(captioner, "TIMEOUT", 0.1)
    paint(pictures, 1)

    def answer(number, body):
        time.sleep(0.3)
        return said(GOOD)

    caption(recipe(pictures, endpoint=serve(answer).url, retries=1))
    assert "1 failed (1 × request timed out)" in capsys.readouterr().err


def test_bad_answers_end_nothing_and_are_asked_for_again_by_the_next_run(pictures, serve, capsys):
    paint(pictures, 6)
    (pictures / "torn.png").write_bytes(b"no picture")

    def answer(number, body):
        if number == 2:
            return 200, {}, "<html>no chat completion</html>"
        return said({"full": 1, "content": []} if number % 3 else "I'd rather not.", 503 if number == 1 else 200)

    caption(recipe(pictures, endpoint=serve(answer).url, concurrency=1, retries=0))
    err = capsys.readouterr().err
    assert lines_of(pictures) == [] and "Skipped torn.png: cannot be read" in err
    assert (
        "0 pictures have captions; 6 failed (4 × no captions in the answer, 1 × HTTP 503, 1 × an answer that is no chat"
        in err
    )
    good = serve(lambda number, body: said(GOOD))
    caption(recipe(pictures, endpoint=good.url))
    caption(recipe(pictures, endpoint=good.url))
    assert len(lines_of(pictures)) == len(good.asked) == 6
    assert "6 pictures have captions already" in capsys.readouterr().err


def test_a_server_where_nothing_works_is_not_asked_forever(pictures, serve):
    paint(pictures, 60)
    server = serve(lambda *_: said("broken", 500))
    with pytest.raises(UserError, match=r"20 pictures in a row got no caption, .* HTTP 500"):
        caption(recipe(pictures, endpoint=server.url, retries=0))
    assert len(server.asked) < 35


def test_plain_text_is_taken_where_json_does_not_come(pictures, serve):
    paint(pictures, 1)

    def answer(number, body):
        if "response_format" in body:
            return said("unknown parameter: response_format", 400)
        asks_for_json = "JSON" in body["messages"][0]["content"][1]["text"]
        return said("{boat" if asks_for_json else f"**FULL:** {GOOD['full']}\nCONTENT: {GOOD['content']}")

    server = serve(answer)
    caption(recipe(pictures, endpoint=server.url))
    [line] = lines_of(pictures)
    assert (line["full"], line["content"]) == (GOOD["full"], "a boat at dawn")
    assert ["response_format" in body for body in server.asked] == [True, False, False]


def test_content_with_style_words_is_asked_for_again_and_then_stripped(pictures, serve):
    paint(pictures, 1)
    stubborn = GOOD | {"content": "an oil painting of a boat at dawn, with loose brushstrokes, near a pier"}
    server = serve(lambda *_: said(stubborn))
    caption(recipe(pictures, endpoint=server.url))
    assert lines_of(pictures)[0]["content"] == "a boat at dawn, near a pier"
    assert "without the words: brushstrokes, oil, painting." in server.asked[1]["messages"][0]["content"][1]["text"]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "caption.model")]
)
def test_a_refusal_stops_at_once_with_the_remedy(pictures, serve, status, remedy):
    paint(pictures, 12)
    server = serve(lambda *_: said("no", status))
    with pytest.raises(UserError, match=rf"refused \(HTTP {status}\): .*{remedy}"):
        caption(recipe(pictures, endpoint=server.url, concurrency=2))
    assert len(server.asked) <= 4


def test_the_hubs_token_is_not_shown_to_another_server(pictures, serve, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    paint(pictures, 1)
    server = serve(lambda *_: said(GOOD))
    caption(recipe(pictures, endpoint=server.url))
    assert server.keys == ["Bearer none"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    (pictures.parent / "captions.jsonl").unlink()
    caption(recipe(pictures, endpoint=server.url))
    assert server.keys == ["Bearer none", "Bearer sk-mine"]


def test_requests_run_side_by_side(pictures, serve):
    paint(pictures, 8)
    together = threading.Barrier(4)

    def answer(number, body):
        together.wait(timeout=10)  # passes only when four are here at once
        return said(GOOD)

    caption(recipe(pictures, endpoint=serve(answer).url, concurrency=4, retries=0))
    assert len(lines_of(pictures)) == 8


def test_a_run_that_is_killed_goes_on_where_it_was(pictures, serve, capsys):
    paint(pictures, 24)

    def answer(number, body):
        time.sleep(0.02)
        return said(GOOD)

    server = serve(answer)
    wanted = recipe(pictures, endpoint=server.url, concurrency=2)
    file, path = pictures.parent / "recipe.yaml", pictures.parent / "captions.jsonl"
    file.write_text(yaml.safe_dump(wanted.model_dump(mode="json")))
    run = subprocess.Popen([sys.executable, "-m", "training", "caption", file], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while run.poll() is None and time.monotonic() < deadline and (not path.exists() or len(lines_of(pictures)) < 5):
        time.sleep(0.005)
    run.kill()
    run.wait()
    before = path.read_text().count("\n")
    assert 5 <= before < 24
    with path.open("a") as torn:
        torn.write('{"id": "4f')
    caption(wanted)
    assert len({line["id"] for line in lines_of(pictures)}) == len(lines_of(pictures)) == 24
    assert len(server.asked) <= 24 + 4  # those under way when it was killed
    assert "its last line was torn" in capsys.readouterr().err


def test_an_answer_is_found_in_whatever_stands_around_it():
    pair = (GOOD["full"], GOOD["content"])
    whole = json.dumps(GOOD)
    for answer in (
        whole,
        f"Sure! Here it is:\n```json\n{whole}\n```\nAnything else?",
        f"<think>{{full}} or {{}}? {json.dumps(GOOD | {'full': 'no'})}</think>\n{whole}",
        f"done thinking</think>{whole}",
        json.dumps({key.title(): f" {value}\n" for key, value in GOOD.items()}),
        f'- Full: "{GOOD["full"]}"\n- Content: {GOOD["content"]}',
    ):
        assert parse(answer) == pair, answer
    for answer in ("", "{", "a boat", '{"full": "a"}', '{"full": "a", "content": " "}', f"<think>{whole}", "{" * 5000):
        assert parse(answer) is None, answer
    assert parse('{"full": "a\\ud800b", "content": "c"}') == ("ab", "c")


def test_a_long_caption_ends_after_a_clause():
    assert shorten("a boat, a pier and a gull", 8) == "a boat, a pier and a gull"
    assert shorten("a boat near a pier, with a gull and a cat", 8) == "a boat near a pier"
    assert shorten("one two three four five six", 4) == "one two three four"


@pytest.mark.parametrize(("whole", "content"), [
    ("An impressionist painting depicts a harbor under a cloudy sky, featuring several boats and a tower, rendered "
     "with loose, visible brushstrokes and a muted color palette of grays, browns, and blues, creating a somber mood.",
     "a harbor under a cloudy sky, featuring several boats and a tower"),
    ("This is an impressionist painting of a village, with soft, diffused light and loose, textured brushstrokes "
     "creating a hazy and tranquil atmosphere, and a mountain range visible in the background.",
     "a village, with soft, diffused light, and a mountain range visible in the background"),
    ("An impressionist painting of a somber portrait featuring a man in a hat, depicted in soft light against a wall.",
     "a man in a hat, in soft light against a wall"),
    ("A boat on the sea. The picture is an oil painting on canvas. Two gulls follow it.",
     "A boat on the sea. Two gulls follow it"),
    ("a drawing room, an oil lamp and a horse-drawn carriage",
     "a drawing room, an oil lamp and a horse-drawn carriage"),
    ("Loose brushstrokes and a warm palette.", ""),
    ("", ""),
])  # fmt: skip
def test_content_of_leaves_out_style_and_nothing_else(whole, content):
    assert content_of(whole) == content
    assert content_of(content) == content
    assert not style_words(content)


def test_without_a_model_the_sources_captions_are_taken_apart(pictures, capsys):
    paint(pictures, 2, caption="An impressionist painting of a boat, rendered with visible brushstrokes.")
    Image.new("RGB", (90, 60)).save(pictures / "unsaid.png")
    caption(recipe(pictures, model="none"))
    assert {(line["full"], line["content"], line["model"]) for line in lines_of(pictures)} == {
        ("An impressionist painting of a boat, rendered with visible brushstrokes.", "a boat", "none")
    }
    assert "2 pictures have captions; 1 failed (1 × the source has none" in capsys.readouterr().err


def test_wrong_settings_are_a_sentence(pictures, monkeypatch):
    paint(pictures, 1)
    with pytest.raises(UserError, match=r"set data\.captions"):
        caption(
            recipe(pictures).model_copy(update={"data": recipe(pictures).data.model_copy(update={"captions": None})})
        )
    with pytest.raises(UserError, match=r"does not load as a vision-language model .* set caption\.endpoint"):
        caption(recipe(pictures, model=str(pictures)))
    with pytest.raises(ValueError, match="should be hf, or begin with http"):
        recipe(pictures, endpoint="localhost:8000")
    monkeypatch.setattr(captioner, "get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        caption(recipe(pictures, endpoint="hf"))


CAPTIONS = {  # of a dark and of a light picture
    name: json.dumps({"full": f"an impressionist painting of a {name} sky", "content": f"a {name} sky"})
    for name in ("dark", "light")
}
LEVELS = {"dark": 20, "light": 230}
TEMPLATE = """
{%- for message in messages %}{% for part in message.content -%}
{{ '<image>' if part.type == 'image' else part.text }}
{%- endfor %}{% endfor %}<end_of_utterance>"""


def tiny_processor(prompt: str) -> Idefics3Processor:
    """A token a byte, and one for the prompt and each of the two captions: short to learn."""
    special = ["<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>"]
    words = [*special, *CAPTIONS.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    plain = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token=special[0], pad_token=special[0], additional_special_tokens=special[1:]
    )
    tokenizer.add_tokens([prompt])
    side = {"longest_edge": 32}
    images = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE)


def tiny_model(processor: Idefics3Processor) -> Idefics3ForConditionalGeneration:
    layer = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return Idefics3ForConditionalGeneration(Idefics3Config(
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"), scale_factor=2,
        vision_config={**layer, "image_size": 32, "patch_size": 8},
        text_config={**layer, "model_type": "llama", "vocab_size": len(processor.tokenizer), "num_key_value_heads": 2,
                     "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0},
    ))  # fmt: skip


def lesson(processor: Idefics3Processor, name: str, prompt: str) -> dict[str, torch.Tensor]:
    """The prompt with a dark or a light picture, and the caption that belongs to it."""
    parts = [
        {"type": "image", "image": Image.new("RGB", (32, 32), (LEVELS[name],) * 3)},
        {"type": "text", "text": prompt},
    ]
    asked = processor.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    answer = torch.tensor([[processor.tokenizer.convert_tokens_to_ids(CAPTIONS[name]), 0]])
    labels = torch.cat([torch.full_like(asked["input_ids"], -100), answer], dim=1)
    tokens = torch.cat([asked["input_ids"], answer], dim=1)
    return {**asked, "input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


def make_tiny_captioner(folder, prompt: str) -> str:
    """An Idefics3, the class of the default model, taught in a second to tell a dark picture from a light one."""
    processor = tiny_processor(prompt)
    model = tiny_model(processor)
    lessons = [lesson(processor, name, prompt) for name in LEVELS]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = sum(model(**each).loss for each in lessons)
        if loss.item() < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_a_model_in_this_process_sees_the_picture(pictures, tmp_path):
    for name, level in LEVELS.items():
        Image.new("RGB", (50, 40), (level,) * 3).save(pictures / f"{name}.png")
    prompt = prompt_for(None, trigger="an impressionist painting of", max_words=60) + command.AS_JSON
    caption(recipe(pictures, model=make_tiny_captioner(tmp_path / "model", prompt)))
    assert {line["name"]: line["content"] for line in lines_of(pictures)} == {
        "dark.png": "a dark sky",
        "light.png": "a light sky",
    }

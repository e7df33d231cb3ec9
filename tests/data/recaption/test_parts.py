"""Laws of the captioner's parts: what is asked, how answers are read, what is written down."""

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
import torch
from PIL import Image

from data.decode.probe import Timing
from data.recaption.clip_images import even_times
from data.recaption.ledger import Ledger, Usage
from data.recaption.local_model import LocalModel
from data.recaption.model import Endpoint, retry_after
from data.recaption.request import BadAnswerError, Request

FIELDS = {
    **{"caption": "a {dog}", "frames": 4, "duration": 2.04, "fps": 24.0, "key": "k"},
    **{"width": 64, "height": 48, "json": {"place": "Oslo"}},
}


def test_a_question_holds_its_fields_and_the_captions_asked_for():
    asked = Request(
        text="{frames} of {duration:.1f} s, {json[place]}, {json[year]}: {caption} {{as is}}",
        captions={"long": "in full", "tags": "some words"},
    ).render(FIELDS)
    assert asked.startswith("4 of 2.0 s, Oslo, unknown: a {dog} {as is}\n\nAnswer with one JSON")
    assert asked.endswith('"long": in full\n"tags": some words')


@pytest.mark.parametrize("field", ["{capton}", "{json.place}", "{caption.__class__}", "{0}", "{}"])
def test_fields_that_there_are_not_are_refused_before_anything_is_asked(field):
    with pytest.raises(ValueError, match="unknown field .*; the fields are caption, frames"):
        Request(text=f"about {field}", captions={"long": ""})


@pytest.mark.parametrize("name", ["key", "txt", "two words", "", "1st"])
def test_names_that_cannot_be_a_captions_are_refused(name):
    with pytest.raises(ValueError, match="the name of a caption must be an identifier"):
        Request(text="", captions={name: ""})


def test_a_field_of_another_form_is_the_clips_failure():
    request = Request(text="{json[place]:.1f}", captions={"long": ""})
    with pytest.raises(ValueError, match="does not match its fields"):
        request.render(FIELDS)


TWO = Request(text="", captions={"long": "", "short": ""})


@pytest.mark.parametrize(
    "answer",
    [
        '{"long": "a b", "short": "c"}',
        'Sure!\n```json\n{"short": " c ", "more": 1,\n "long": "a \\n b"}\n```\nAnything else?',
        '<think>{"long": 1} {"long": "x", "short": "y"}</think>{"long": "a b", "short": "c"}',
        '{ not json } {"long": "a b", "short": "c"}',
    ],
)
def test_captions_are_found_in_an_answer(answer):
    assert TWO.parse(answer) == {"long": "a b", "short": "c"}


@pytest.mark.parametrize(
    "answer",
    [
        *("", "  ", "a plain sentence", '{"long": "a"}', '{"long": "a", "short": ""}', "[1, 2]"),
        *('{"long": "a", "short": ["c"]}', '{"long": "a", "short": "c"', "{" * 10_000, "null"),
    ],
)
def test_an_answer_without_all_captions_is_bad(answer):
    with pytest.raises(BadAnswerError):
        TWO.parse(answer)


def test_the_recipe_is_of_the_question_and_of_what_shapes_answers():
    made_by = {"model": "m", "frames": 8}
    one = Request(text="a", captions={"long": "x"})
    recipes = {
        one.recipe(made_by),
        one.recipe({**made_by, "frames": 4}),
        Request(text="b", captions={"long": "x"}).recipe(made_by),
        Request(text="a", captions={"long": "y"}).recipe(made_by),
    }
    assert len(recipes) == 4
    assert one.recipe({"frames": 8, "model": "m"}) == one.recipe(made_by)


def test_the_frames_are_the_middles_of_equal_parts_of_the_time():
    timing = Timing(kind="video", times=np.arange(48) / 24, duration=2.0)
    assert even_times(timing, 4).tolist() == [0.25, 0.75, 1.25, 1.75]
    still = Timing(kind="image", times=np.zeros(1), duration=1.0)
    assert even_times(still, 4).tolist() == [0.5]


def test_waits_are_read_in_every_form():
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "9", "retry-after-ms": "150"}) == 0.15
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_the_ledger_holds_answers_failures_and_their_cost(tmp_path):
    ledger = Ledger(tmp_path / "l.jsonl", adding=True)
    ledger.add("r", "a", usage=Usage(answers=1, prompt=10, completion=2), bad="no JSON")
    ledger.add("r", "a", failed="no JSON")
    ledger.add("r", "b", usage=Usage(answers=1, unmetered=1), captions={"long": "长"})
    ledger.add("s", "b", failed="500")
    for known in (ledger, Ledger(tmp_path / "l.jsonl")):
        assert known.captions == {"r": {"b": {"long": "长"}}}
        assert known.failed == {"r": {"a": "no JSON"}, "s": {"b": "500"}}
        used = known.usage["r"]
        assert used == Usage(answers=2, prompt=10, completion=2, unmetered=1)
        assert used.cost({"prompt": 1e6, "completion": 1e5}) == pytest.approx(10.2)
    ledger.add("r", "a", captions={"long": "x"})
    assert Ledger(tmp_path / "l.jsonl").failed["r"] == {}
    with pytest.raises(ValueError, match="another process is captioning this shard"):
        Ledger(tmp_path / "l.jsonl", adding=True)
    ledger.close()
    Ledger(tmp_path / "l.jsonl", adding=True).close()


def test_every_cut_of_the_ledger_loses_its_last_line_alone(tmp_path):
    path = tmp_path / "l.jsonl"
    ledger = Ledger(path, adding=True)
    for key in "abc":
        ledger.add("r", key, captions={"long": key})
    ledger.close()
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        again = Ledger(path, adding=True)
        again.add("r", "z", captions={"long": "z"})
        again.close()
        assert list(Ledger(path).captions["r"]) == [*"abc"[:whole], "z"]


def test_a_line_that_is_none_of_a_ledgers_is_named(tmp_path):
    (tmp_path / "l.jsonl").write_text('{"recipe": "r", "key": "a"}\n{"key": 1}\n')
    with pytest.raises(ValueError, match="line 2 is invalid"):
        Ledger(tmp_path / "l.jsonl")


def test_an_endpoint_that_is_no_url_is_refused():
    with pytest.raises(ValueError, match="must be a URL such as http://localhost"):
        Endpoint(url="localhost:8000", model="m")


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory):
    """LLaVA of two small layers with random weights; its pictures are prepared by PIL."""
    t = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<pad>", "<s>", "</s>", "<image>"]
    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    letters.train_from_iterator(
        ["a"], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=special)
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=False))
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=letters, extra_special_tokens={"image_token": "<image>"}, **names
    )
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(
            num_hidden_layers=2, image_size=28, patch_size=14, **layers
        ),
        text_config=t.LlamaConfig(
            vocab_size=len(tokenizer), num_hidden_layers=1, num_key_value_heads=2, **layers
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    crop = {"height": 28, "width": 28}
    pictures = t.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=crop)
    template = (
        "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    processor = t.LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    folder = tmp_path_factory.mktemp("vlm")
    torch.manual_seed(0)
    t.LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(file, "jpeg")
    return file.getvalue()


def test_a_local_model_sees_the_pictures_and_counts_its_tokens(tiny_vlm):
    model = LocalModel(model=str(tiny_vlm), options={"temperature": 0, "max_tokens": 6})
    asked = [
        asyncio.run(model.ask("hello", [jpeg(s) for s in shades], {})) for shades in ((9,), (9, 9))
    ]
    assert [one.usage.prompt for one in asked] == [4 + 5, 8 + 5]  # 4 patches each, 5 letters
    assert all(one.usage.completion <= 6 and one.text for one in asked)
    again = asyncio.run(model.ask("hello", [jpeg(9)], {}))
    assert again == asked[0]
    assert model.name == tiny_vlm.name


def test_a_local_model_captions_shards(tiny_vlm, call, folder, monkeypatch):
    answer = LocalModel._answer

    def say(self, text, pictures):
        said = answer(self, text, pictures)
        assert len(pictures) == 3
        return type(said)(text=json.dumps({"long": "l", "short": "s"}), usage=said.usage)

    with pytest.raises(ValueError, match=r"none of 2 requests gave captions.*: no JSON object"):
        call(f"model={tiny_vlm}", "endpoint=local", "limit=2", "attempts=1", "options.max_tokens=4")
    monkeypatch.setattr(LocalModel, "_answer", say)
    told = call(f"model={tiny_vlm}", "endpoint=local", "limit=2", "options.max_tokens=4")
    assert (told["captioned"], told["failed"]) == (2, {})
    assert told["completion_tokens"] >= 4


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"no image-text-to-text model can be loaded from .*download=true"
    ):
        LocalModel(model=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="supports only the options .* got top_p"):
        LocalModel(model=str(tmp_path), options={"top_p": 1})

"""Laws of the frozen T5: it is no part of the stage, truncates captions, refuses long prompts."""

import copy
from pathlib import Path

import pytest
import torch

from cascade.text.t5 import T5Text


def t5(folder: Path, **options: object) -> T5Text:
    defaults = {"name": str(folder), "width": 16, "dtype": "float32"}
    return T5Text(**(defaults | options))  # type: ignore[arg-type]  # a test's own keywords


def test_t5_features_do_not_depend_on_the_batch(tiny_t5: Path) -> None:
    encoder = t5(tiny_t5)
    batch = encoder(["a red circle", "", "熊猫"])
    assert batch.mask.sum(1).tolist() == [13, 1, 7]
    torch.testing.assert_close(batch.tokens[2, :7], encoder(["熊猫"]).tokens[0])


def test_t5_is_no_part_of_the_stage(tiny_t5: Path) -> None:
    stage = torch.nn.ModuleDict({"text": t5(tiny_t5)})
    assert not stage["text"](["a"]).tokens.requires_grad
    assert not list(stage.parameters())
    assert not stage.state_dict()
    assert len(list(stage.modules())) == 2
    assert copy.deepcopy(stage)["text"](["a"]).tokens.shape == (1, 2, 16)


def test_t5_follows_the_stage_to_its_device(tiny_t5: Path) -> None:
    encoder = t5(tiny_t5).to("meta")
    with pytest.raises(RuntimeError, match="meta"):
        encoder(["a"])
    assert encoder.encoder().device.type == "meta"


def test_t5_cuts_and_counts_captions_and_refuses_prompts(tiny_t5: Path) -> None:
    encoder = t5(tiny_t5, max_tokens=4)
    assert encoder(["abcdefg", "ab"]).mask.sum(1).tolist() == [4, 3]
    assert encoder.truncated == 1
    with pytest.raises(ValueError, match="at most 4 tokens, the prompt has 8"):
        encoder.check("abcdefg")


def test_t5_without_its_files_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no T5 encoder and tokenizer at .*download=true"):
        t5(tmp_path / "nowhere")(["a"])


def test_t5_of_another_width_is_refused(tiny_t5: Path) -> None:
    with pytest.raises(ValueError, match=r"has width 16, but the stage has 8; .*width=16"):
        t5(tiny_t5, width=8).prepare()


def test_t5_without_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'cascade\[text\]'"):
        t5(Path("any")).prepare()

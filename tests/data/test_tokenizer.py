"""Loading the run's tokenizer, and which folders are refused."""

import json
from pathlib import Path

import pytest
from support.collating import word_pieces

from renaissance.data.tokenizer import load_tokenizer
from renaissance.errors import SpecError


@pytest.mark.parametrize("family", ["bert", "electra", "roberta", "deberta-v2", "mbart", "funnel"])
def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path, family: str) -> None:
    # transformers returns a tokenizer of special tokens alone.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(SpecError) as error:
        load_tokenizer(str(tmp_path), 8, [])
    message = str(error.value)
    assert message.startswith(f"data.tokenizer: {str(tmp_path)!r} has only special tokens, ")
    assert message.endswith(
        ": every word would be unknown. Its vocabulary is missing; expected tokenizer.json, or the "
        "vocabulary file of the model. Save the tokenizer there with save_pretrained, or name "
        "another"
    )


def test_a_tokenizer_that_lost_its_vocabulary_is_refused(tmp_path: Path) -> None:
    word_pieces().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path), 8, []).get_vocab() == word_pieces().get_vocab()
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(SpecError, match="has only special tokens, "):
        load_tokenizer(str(tmp_path), 8, [])


@pytest.mark.parametrize("family", ["esm", "modernbert", "no-such-family"])
def test_a_family_that_cannot_do_without_its_files_is_named(tmp_path: Path, family: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(SpecError, match=r"^data\.tokenizer: cannot load a tokenizer from the"):
        load_tokenizer(str(tmp_path), 8, [])


@pytest.mark.parametrize("content", ["{", "{}", "[]", "\0", '{"added_tokens": []}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    word_pieces().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(SpecError) as error:
        load_tokenizer(str(tmp_path), 8, [])
    assert str(error.value).startswith(
        f"data.tokenizer: cannot load a tokenizer from the folder {str(tmp_path)!r}: "
    )

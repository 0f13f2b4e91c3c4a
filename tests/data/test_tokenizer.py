"""Loading the run's tokenizer, and which folders are refused."""

import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.collating import byte_pairs, make, word_pieces
from support.tiny_models import sentence_pieces
from transformers import BertTokenizer

from renaissance.builtin.objectives.mlm import MLM
from renaissance.data.encoding import encode
from renaissance.data.tokenizer import (
    count_ids,
    load_tokenizer,
    readable,
    separator_id,
    starts_with_class,
    tokenizer_sha256,
)
from renaissance.errors import SpecError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


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


def test_a_vocabulary_file_with_a_byte_order_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog"])
    (tmp_path / "vocab.txt").write_text(words, encoding="utf-8")
    assert load_tokenizer(str(tmp_path), 8, []).pad_token_id == 0
    (tmp_path / "vocab.txt").write_text(words, encoding="utf-8-sig")
    with pytest.raises(SpecError, match=r"its first token is '\\ufeff\[PAD\]': .*without one$"):
        load_tokenizer(str(tmp_path), 8, [])


def test_a_run_without_texts_reads_the_tokenizer_that_it_kept(tmp_path: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    BertTokenizer(vocab={word: i for i, word in enumerate(special)}).save_pretrained(tmp_path)
    assert sorted(load_tokenizer(str(tmp_path), 8, []).get_vocab()) == sorted(special)


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


@pytest.mark.parametrize(
    ("family", "name", "content", "cause"),
    [
        ("bert", "vocab.txt", POINTER, "vocab.txt is a git-lfs pointer, not the file itself; run"),
        ("bert", "tokenizer.json", POINTER, "tokenizer.json is a git-lfs pointer, not the file"),
        ("xlm-roberta", "sentencepiece.bpe.model", POINTER, "sentencepiece.bpe.model is a git-lfs"),
        ("t5", "spiece.model", "damaged", "its vocabulary needs the library sentencepiece, which "
         "is not installed; run pip install sentencepiece protobuf"),
    ],
)  # fmt: skip
def test_files_of_a_vocabulary_that_are_not_there_are_named(
    tmp_path: Path, family: str, name: str, content: str, cause: str
) -> None:
    if content != POINTER and find_spec("sentencepiece") is not None:
        pytest.skip("sentencepiece is installed")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    (tmp_path / name).write_text(content)
    with pytest.raises(SpecError) as error:
        load_tokenizer(str(tmp_path), 8, [])
    assert str(error.value).startswith(
        f"data.tokenizer: cannot load a tokenizer from the folder {str(tmp_path)!r}: {cause}"
    )


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["custom.Tokenizer", None]}}},
        {"config.json": {"model_type": "custom", "auto_map": {"AutoConfig": "custom.Config"}}},
    ],
    ids=["tokenizer", "config"],
)
def test_code_of_a_folder_is_neither_run_nor_asked_about(
    files: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    answers = io.StringIO("y\n")
    monkeypatch.setattr(sys, "stdin", answers)
    with pytest.raises(SpecError) as caught:
        load_tokenizer(str(tmp_path), 8, ())
    assert str(caught.value).startswith(
        f"data.tokenizer: cannot load a tokenizer from the folder '{tmp_path}': "
    )
    assert answers.read() == "y\n"
    assert not (tmp_path / "ran").exists()


def test_the_digest_is_that_of_the_token_ids(tmp_path: Path) -> None:
    tokenizer = word_pieces()
    tokenizer.save_pretrained(tmp_path)
    made, read = (load_tokenizer(str(tmp_path), 8, []) for _ in range(2))
    assert tokenizer_sha256(made) == tokenizer_sha256(read)
    # Kept by a run, and loaded from there.
    made.save_pretrained(tmp_path / "kept")
    kept = load_tokenizer(str(tmp_path / "kept"), 8, [])
    assert tokenizer_sha256(kept) == tokenizer_sha256(made)
    read.add_tokens(["more"])
    assert tokenizer_sha256(read) != tokenizer_sha256(made)


def test_a_panic_of_the_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panic(*arguments: object, **options: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr("renaissance.data.tokenizer.AutoTokenizer.from_pretrained", panic)
    with pytest.raises(SpecError, match=r"cannot load a tokenizer from the name 'x': index out of"):
        load_tokenizer("x", 8, [])


def test_a_vocabulary_that_leaves_ids_out_needs_rows_up_to_the_largest() -> None:
    # As of many fine-tuned tokenizers, whose added tokens come after a gap.
    plain = word_pieces()
    words = plain.get_vocab()
    last = max(words, key=words.get)
    gap = BertTokenizer(vocab={**words, last: words[last] + 10})
    assert count_ids(plain) == len(plain)
    assert count_ids(gap) == len(gap) + 10
    mlm = make(MLM, gap)
    assert mlm.ordinary_ids.max() == len(gap) + 9
    assert len(mlm.ordinary_ids) == len(gap) - len(gap.all_special_ids)


def test_t5s_tokenizer_has_neither_class_token_nor_separator(tmp_path: Path) -> None:
    sentence_pieces().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), 4, [])
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id) == (None, None)
    assert (separator_id(tokenizer), starts_with_class(tokenizer)) == (None, False)
    encoded = encode(tokenizer, "a photo of it")
    assert encoded.tokens == ["\u2581a", "\u2581photo", "\u2581of", "</s>"]
    input_ids = torch.tensor([[*encode(tokenizer, "a photo").ids, tokenizer.pad_token_id]])
    assert readable(tokenizer, input_ids) == ["a photo"]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("pad_token", "has no pad_token_id; use a tokenizer of an encoder model"),
        ("post_processor", "adds no token of its own to a text, so an empty text would have none"),
    ],
)
def test_a_tokenizer_of_no_encoder_is_refused(tmp_path: Path, lost: str, reason: str) -> None:
    byte_pairs().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((tmp_path / name).read_text())
        content.pop(lost, None)
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(SpecError) as caught:
        load_tokenizer(str(tmp_path), 8, [])
    assert f"data.tokenizer: {str(tmp_path)!r} {reason}" in str(caught.value)

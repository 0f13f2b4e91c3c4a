"""Whatever is wrong with the input: one clear message, the right exit code, no traceback."""

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import pyarrow as pa
import pytest
from safetensors.torch import save_file
from support.arrow_files import picture, rows, spec_with_files, write_arrow
from support.asserting import assert_refused
from support.command_line import renaissance
from support.installing import install_source
from support.running import TINY, environment, metrics, run_here, torchrun, write_spec
from support.terminal import on_a_terminal, visible_lines
from support.tiny_models import save_model

import renaissance as renaissance_package
from renaissance.cli import main
from renaissance.data.order import sample_at
from renaissance.engine.agreement import NUM_PROBE_SAMPLES


def with_image_checkpoint(folder: Path) -> str:
    """Return the tiny spec with a pretrained image encoder."""
    start, end = TINY.index("[model.image_encoder]"), TINY.index("[model.fusion]")
    encoder = f'[model.image_encoder]\ntype = "hf-image"\ncheckpoint = "{folder}"\n\n'
    return TINY[:start] + encoder + TINY[end:]


# --- the spec ---


@pytest.mark.parametrize("command", ["train", "check"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[run]\nname = \n", "run.toml: line 2, column 8: Invalid value"),
        (TINY + "[train.extra]\n", "run.toml: train.extra: unknown key; known: max_steps,"),
        (
            TINY.replace("max_steps", "max_step"),
            "run.toml: train.max_step: unknown key; known: max_steps, max_epochs,",
        ),
        (
            TINY.replace("max_steps = 10", "max_steps = 10.5"),
            "run.toml: train.max_steps: got 10.5 (number), expected integer",
        ),
        (
            TINY.replace('"co-attention"', '"coattention"'),
            "run.toml: model.fusion.type: unknown fusion 'coattention'; known: co-attention, "
            "cross-attention, lxmert, merged-attention, none; did you mean 'co-attention'?",
        ),
    ],
)
def test_a_bad_spec(tmp_path: Path, command: str, text: str, expected: str) -> None:
    spec = write_spec(tmp_path, text)
    assert_refused(renaissance(command, str(spec)), f"{tmp_path}/{expected}")
    assert list(tmp_path.iterdir()) == [spec]


def test_a_missing_spec(tmp_path: Path) -> None:
    write_spec(tmp_path)
    assert_refused(
        renaissance(str(tmp_path / "rum.toml")), "rum.toml: there is no such file", "run.toml"
    )
    assert_refused(renaissance("nonsense"), "got 'nonsense', expected a .toml file or section.key=")


@pytest.mark.parametrize(
    ("misspelt", "command"), [("chek", "check"), ("trian", "train"), ("evalaute", "evaluate")]
)
def test_a_misspelt_command(tmp_path: Path, misspelt: str, command: str) -> None:
    spec = str(write_spec(tmp_path))
    assert_refused(
        renaissance(misspelt, spec),
        f"error: '{misspelt}' is neither a command nor a .toml file or section.key=value; "
        f"did you mean '{command}'?",
    )


def test_a_spec_that_is_named_like_a_command(tmp_path: Path) -> None:
    assert_refused(renaissance("chek.toml"), "chek.toml: there is no such file")
    assert_refused(renaissance("chek=1"), "command line: chek: unknown section")


def test_a_byte_order_mark(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, "\ufeff" + TINY)
    assert renaissance("check", str(spec)).code == 0


def test_debug_shows_where(tmp_path: Path) -> None:
    from renaissance.errors import SpecError

    with pytest.raises(SpecError, match=r"max_step: unknown key"):
        # Past the command line, Python itself prints the traceback.
        renaissance("--debug", str(write_spec(tmp_path)), "train.max_step=1")


def test_a_batch_that_does_not_divide(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path))
    assert_refused(
        renaissance(spec, "train.micro_batch_size=3"),
        "train.micro_batch_size: got 3, which does not divide train.global_batch_size = 8; "
        "the nearest that does is 2",
    )
    assert_refused(
        renaissance("check", spec, "--ranks", "3"),
        "train.global_batch_size: got 8, which 3 ranks cannot share equally; "
        "the nearest sizes that they can: 6, 9. Or start as many ranks as can share it: 1, 2, 4, 8",
    )
    assert_refused(
        renaissance("check", spec, "--ranks", "2", "train.micro_batch_size=8"),
        "train.micro_batch_size: got 8, but each of 2 ranks has 8 / 2 = 4 samples per step, "
        "which is not a multiple; use a divisor of 4: 1, 2, 4",
    )


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    assert_refused(
        renaissance(str(spec), f"run.output_dir={spec}/runs"),
        f"run.output_dir: cannot create {spec}/runs/tiny: ",
        "choose a writable folder",
    )


# --- the data ---


def test_a_missing_data_file(tmp_path: Path) -> None:
    spec = str(spec_with_files(tmp_path))
    write_arrow(tmp_path / "training.arrow", rows(4))
    for command in ("train", "check"):
        assert_refused(
            renaissance(command, spec, f"run.output_dir={tmp_path}"),
            f"{tmp_path}/train.arrow: no such file; expected an Arrow file",
            "training.arrow",
            "Set data.root to the folder that holds it, or prepare it with "
            "'renaissance data prepare'",
        )


@pytest.mark.parametrize(
    ("spoil", "texts"),
    [
        (lambda path: path.write_text("image,caption\n"), ["not a whole Arrow file of 14 bytes"]),
        (lambda path: path.write_bytes(b""), ["not a whole Arrow file of 0 bytes"]),
        (
            lambda path: path.write_bytes(path.read_bytes()[:2000]),
            ["not a whole Arrow file of 2000 bytes", "It may be cut short"],
        ),
        (
            lambda path: write_arrow(
                path, [{"image": b"", "text": "a"}], pa.schema({"image": "binary", "text": "utf8"})
            ),
            ["no column 'caption'; it has image, text; expected image, caption"],
        ),
        (lambda path: write_arrow(path, []), ["no rows; expected at least one"]),
        (
            lambda path: write_arrow(path, [{"image": b"", "caption": []}]),
            ["no caption in 1 rows; expected at least one"],
        ),
    ],
    ids=["no-arrow-file", "no-bytes", "cut-short", "no-column", "no-rows", "no-captions"],
)
def test_a_data_file_of_no_use(
    tmp_path: Path, spoil: Callable[[Path], object], texts: list[str]
) -> None:
    spec = str(spec_with_files(tmp_path))
    write_arrow(tmp_path / "train.arrow", rows(20))
    spoil(tmp_path / "train.arrow")
    for command in ("train", "check"):
        finished = renaissance(command, spec, f"run.output_dir={tmp_path}")
        assert_refused(finished, f"{tmp_path}/train.arrow: ", *texts)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_undecodable_image(tmp_path: Path, num_workers: int) -> None:
    spec = spec_with_files(tmp_path)
    records = rows(40)
    records[37]["image"] = picture(37)[:300]
    write_arrow(tmp_path / "train.arrow", records)
    finished = renaissance(
        str(spec), f"run.output_dir={tmp_path}", f"data.num_workers={num_workers}"
    )
    # The run was under way: the code tells a scheduler that starting it again may get further.
    assert_refused(
        finished, "train.arrow: row 37: image cannot be decoded", "data.max_bad_samples", code=1
    )


def test_a_failing_component_is_named_and_the_rest_left_to_debug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from renaissance.builtin.datasets.shapes import Shapes

    def fail(self: Shapes, index: int, generator: object) -> None:
        raise KeyError("label")

    monkeypatch.setattr(Shapes, "sample", fail)
    spec = str(write_spec(tmp_path))
    finished = renaissance(spec, f"run.output_dir={tmp_path}", "data.num_workers=1")
    assert_refused(finished, "KeyError: 'label'", "--debug shows where", code=1)


# --- checkpoints ---


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path))
    for command in ("train", "check"):
        assert_refused(
            renaissance(
                command, spec, f"run.output_dir={tmp_path}", f"model.init_from={tmp_path}/none"
            ),
            f"{tmp_path}/none: no checkpoint there; expected a folder with manifest.json",
        )


def test_a_missing_pretrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a machine without network is told, without waiting for a network to answer.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = str(write_spec(tmp_path, with_image_checkpoint(Path("no-such/model"))))
    for command in ("train", "check"):
        assert_refused(
            renaissance(command, spec, f"run.output_dir={tmp_path}"),
            "hf-image: checkpoint: 'no-such/model' is not a local folder",
        )


@pytest.mark.parametrize("checkpoint", ["no-such/model", "folder"])
def test_a_bad_text_encoder_is_not_blamed_on_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if checkpoint == "folder":
        monkeypatch.chdir(tmp_path)
        Path(checkpoint).mkdir()
    start, end = TINY.index("[model.text_encoder]"), TINY.index("[model.image_encoder]")
    encoder = f'[model.text_encoder]\ntype = "hf-text"\ncheckpoint = "{checkpoint}"\n\n'
    text = (TINY[:start] + encoder + TINY[end:]).replace('tokenizer = "dataset"\n', "")
    spec = str(write_spec(tmp_path, text))
    for command in ("train", "check"):
        refused = renaissance(command, spec, f"run.output_dir={tmp_path}")
        assert_refused(
            refused,
            "error: model.text_encoder.checkpoint: cannot load a tokenizer from the ",
            f"'{checkpoint}': " + ("it has no files of one; " if checkpoint == "folder" else ""),
            "or name the tokenizer in data.tokenizer",
        )


def test_an_unreachable_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("renaissance.hub.get_session", Session)
    spec = str(write_spec(tmp_path, with_image_checkpoint(Path("no-such/model"))))
    assert_refused(
        renaissance("train", spec, f"run.output_dir={tmp_path}"),
        "hf-image: checkpoint: 'no-such/model' is not a local folder",
        "without network access, download the model elsewhere and give its folder",
    )
    assert len(asked) == 1


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    spec = str(write_spec(tmp_path))
    output = f"run.output_dir={tmp_path}"
    run_here(Path(spec), tmp_path, "train.max_steps=1", "data.validate=[]")
    for command in ("train", "check"):
        wider = ["model.fusion.hidden_size=32", "train.max_steps=2"]
        assert_refused(
            renaissance(command, spec, output, *wider),
            "step-00000001: the run had model.fusion.hidden_size = 16, now it is 32, which does "
            "not fit what was trained so far. Restore it, or choose another run.name and "
            "model.init_from = ",
        )
        deeper = ["model.fusion.num_layers=3", "run.name=new", f"model.init_from={tmp_path}/tiny"]
        assert_refused(
            renaissance(command, spec, output, *deeper),
            "step-00000001 does not fit this run: fusion.layers.2.text_stream.",
            'set model.init_allow = ["fusion"]',
        )


def test_pretrained_weights_of_another_shape(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    save_model(folder, "vit")
    config = folder / "config.json"
    config.write_text(re.sub(r'"hidden_size": \d+', '"hidden_size": 24', config.read_text()))
    spec = str(write_spec(tmp_path, with_image_checkpoint(folder)))
    assert_refused(
        renaissance(spec, f"run.output_dir={tmp_path}"),
        f"hf-image: checkpoint: the weights of '{folder}' do not fit its own config.json: ",
    )


def test_pretrained_weights_that_are_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "vit"
    save_model(folder, "vit")
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    spec = str(write_spec(tmp_path, with_image_checkpoint(folder)))
    assert_refused(
        renaissance(spec, f"run.output_dir={tmp_path}"), "of the weights that 'vit' needs are"
    )


def test_a_message_on_a_terminal_is_wrapped_at_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["check", str(write_spec(tmp_path)), "train.max_step=3"]
    in_a_pipe = renaissance(*command).err
    assert len(in_a_pipe.splitlines()) == 1
    monkeypatch.setattr("sys.argv", ["renaissance", *command])

    def act() -> None:
        with redirect_stderr(sys.stdout), pytest.raises(SystemExit):
            main()

    lines = visible_lines(on_a_terminal(act, monkeypatch))
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).split() == in_a_pipe.split()


# --- two ranks ---

PLUGIN = """
import os

from renaissance import hookimpl
from renaissance.builtin.objectives.itm import ITM


class FailsLate(ITM):
    calls = 0

    def forward(self, batch, features):
        self.calls += 1
        if os.environ["RANK"] == "1" and self.calls > 4:
            raise ValueError("this rank cannot")
        return super().forward(batch, features)


@hookimpl
def register_objectives(register):
    register("fails-late", FailsLate)
"""
PROJECT = """
[project]
name = "renaissance-fails-late"
version = "1.0"
[project.entry-points.renaissance]
fails-late = "renaissance_fails_late"
"""


def assert_one_message(spec: Path, message: str, *settings: str, **environment: str) -> None:
    """Train on two ranks: the message must come once, and no rank may wait for another.

    torchrun's report follows, which no rank can prevent; it must end with the message.
    """
    result = torchrun(2, str(spec), f"run.output_dir={spec.parent}", *settings, **environment)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("error: ") == 1, result.stderr
    printed, _, report = result.stderr.partition("\n=====")
    assert printed.count(message) == 1, result.stderr
    # Ranks that the launcher has ended come before.
    last, frame = report.splitlines()[-2:]
    assert last.startswith("  traceback : ")
    assert message.removeprefix("error: ") in last
    assert len(last) < 220
    assert set(frame) == {"="}
    assert "pytorch.org" not in report
    # The launcher adds a report, with another traceback.
    assert str(Path(renaissance_package.__file__).parent) not in result.stderr


def test_a_bad_spec_on_two_ranks(tmp_path: Path) -> None:
    assert_one_message(write_spec(tmp_path), "train.max_step: unknown key", "train.max_step=3")


def test_a_missing_data_file_on_two_ranks(tmp_path: Path) -> None:
    assert_one_message(spec_with_files(tmp_path), f"{tmp_path}/train.arrow: no such file")


def test_an_undecodable_image_on_two_ranks(tmp_path: Path) -> None:
    # Of the third step, rank 1's half; the first rows are read before the first step, too.
    rows_of_rank_1 = [sample_at(2 * 8 + 4 + i, 40, seed=0)[1] for i in range(4)]
    row = next(row for row in rows_of_rank_1 if row >= NUM_PROBE_SAMPLES)
    records = rows(40)
    records[row]["image"] = picture(row)[:300]
    write_arrow(tmp_path / "train.arrow", records)
    message = f"error: rank 1: train.arrow: row {row}: image cannot be decoded"
    settings = ["data.num_workers=1", "objectives=[{type='mlm'}]"]
    command = [sys.executable, "-m", "renaissance", "train", "--ranks", "2"]
    result = subprocess.run(
        [*command, str(spec_with_files(tmp_path)), f"run.output_dir={tmp_path}", *settings],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1
    # Nothing else is on the terminal.
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == 1
    assert [line["step"] for line in metrics(tmp_path / "tiny")] == [2]


def test_a_component_that_fails_on_one_rank(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    site.mkdir()
    (source / "renaissance_fails_late.py").write_text(PLUGIN)
    (source / "pyproject.toml").write_text(PROJECT)
    install_source(source, site)
    assert_one_message(
        write_spec(tmp_path),
        "error: rank 1: ValueError: this rank cannot",
        "objectives.1.type=fails-late",
        PYTHONPATH=str(site),
    )

"""`renaissance export --to torch` and `--to onnx`."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.command_line import renaissance
from support.running import TINY, one_tower_spec, run_here, write_spec
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.export import Dim

from renaissance import RunError, TransformContext
from renaissance.export import programs
from renaissance.export.parts import Part, parts_of
from renaissance.export.probe import check_close
from renaissance.export.programs import export_onnx
from renaissance.inference.loading import load

ITC = '[[objectives]]\ntype = "itc"\nprojection_size = 8\n\n[[objectives]]\ntype = "mlm"'
# Of other lengths than those that the programs were traced with.
TEXTS = ["a small blue square above a large red circle left of a green square", "green"] * 2


def _trained(folder: Path, architecture: str) -> Path:
    text = TINY if architecture == "two-tower" else one_tower_spec()
    text = text.replace('[[objectives]]\ntype = "mlm"', ITC)
    run_here(write_spec(folder, text), folder, "train.max_steps=1")
    return folder / "tiny"


def _pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (40, 60, 3), np.uint8)) for _ in TEXTS]


def _inputs(run: Path, folder: Path) -> dict[str, np.ndarray]:
    """Inputs by the exported tokenizer alone, and pixels by the run's transform."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(TEXTS)
    choice = load(run).spec.data.transform
    transform = choice.build(TransformContext(32, False, choice.mean))
    pixels = np.stack([transform.pixels(p, np.random.default_rng()) for p in _pictures()])
    mean, std = (np.float32(v).reshape(3, 1, 1) for v in (choice.mean, choice.std))
    return {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        "pixel_values": np.float32((pixels / 255 - mean) / std),
    }


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["two-tower", "one-tower"])
def test_onnxruntime_scores_as_the_model(architecture: str, tmp_path: Path) -> None:
    run, output = _trained(tmp_path, architecture), tmp_path / "out"
    finished = renaissance("export", str(run), "--to", "onnx", "--output", str(output))
    assert (finished.code, finished.err) == (0, "")
    assert "pair_scorer.onnx: text_states, attention_mask, image_states -> scores" in finished.out
    inputs = _inputs(run, output)

    def answer(part: str, **given: np.ndarray) -> list[np.ndarray]:
        return onnxruntime.InferenceSession(output / f"{part}.onnx").run(None, given)

    mask = inputs["attention_mask"]
    text, text_vectors = answer("text_encoder", input_ids=inputs["input_ids"], attention_mask=mask)
    image, image_vectors = answer("image_encoder", pixel_values=inputs["pixel_values"])
    (scores,) = answer("pair_scorer", text_states=text, attention_mask=mask, image_states=image)
    match = load(run).match(_pictures(), TEXTS)
    assert match.probability is not None
    np.testing.assert_allclose(image_vectors @ text_vectors.T, match.similarity, atol=1e-4)
    probability = 1 / (1 + np.exp(-scores))
    np.testing.assert_allclose(probability, np.diagonal(match.probability), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["two-tower", "one-tower"])
def test_torch_programs_score_as_the_model(architecture: str, tmp_path: Path) -> None:
    run, output = _trained(tmp_path, architecture), tmp_path / "out"
    assert renaissance("export", str(run), "--to", "torch", "--output", str(output)).code == 0
    inputs = {name: torch.from_numpy(array) for name, array in _inputs(run, output).items()}
    text_encoder, image_encoder, scorer = (
        torch.export.load(output / f"{name}.pt2").module()
        for name in ("text_encoder", "image_encoder", "pair_scorer")
    )
    mask = inputs["attention_mask"]
    with torch.no_grad():
        text, text_vectors = text_encoder(inputs["input_ids"], mask)
        image, image_vectors = image_encoder(inputs["pixel_values"])
        (scores,) = scorer(text, mask, image)
    match = load(run).match(_pictures(), TEXTS)
    assert match.probability is not None
    np.testing.assert_allclose(image_vectors @ text_vectors.T, match.similarity, atol=1e-5)
    np.testing.assert_allclose(scores.sigmoid(), np.diagonal(match.probability), atol=1e-5)


def test_every_part_is_traced_for_any_number_of_rows_and_any_length(tmp_path: Path) -> None:
    model = load(_trained(tmp_path, "two-tower"), device="cpu")
    parts = parts_of(model, 3)
    assert [part.name for part in parts] == ["text_encoder", "image_encoder", "pair_scorer"]
    for part, small in zip(parts, parts_of(model, 1), strict=True):
        program = programs.program_of(part).module()
        for its_part in (part, small):
            outputs = program(*its_part.inputs.values())
            for actual, expected in zip(outputs, its_part.results(), strict=True):
                torch.testing.assert_close(actual, expected)


class _Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> tuple[Tensor]:
        return (self.function(values),)


def _part(name: str, function: Any, num_rows: int) -> Part:
    values = torch.linspace(0.1, 0.9, num_rows)
    return Part(
        name, _Function(function), {"values": values}, {"values": {0: Dim("batch")}}, ("out",)
    )


def _use_parts(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    def parts_of(model: object, num_rows: int) -> list[Part]:
        return [_part(name, function, num_rows) for name, function in functions.items()]

    monkeypatch.setattr(programs, "parts_of", parts_of)
    monkeypatch.setattr(programs, "_write_inputs", lambda model, folder: [])


def test_an_operator_that_onnx_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = SimpleNamespace()
    _use_parts(monkeypatch, text_encoder=torch.exp, pair_scorer=torch.special.bessel_j0)
    lines = export_onnx(model, tmp_path)
    assert lines[0].startswith("text_encoder.onnx: values -> out")
    # Releases of torch name it by their own decomposition.
    expected = (
        r"left out: pair_scorer: ONNX lacks the operator \S*bessel_j0\S*; the other parts can"
    )
    assert re.match(expected, lines[1])
    assert [path.name for path in tmp_path.iterdir()] == ["text_encoder.onnx"]
    _use_parts(monkeypatch, pair_scorer=torch.special.bessel_j0)
    with pytest.raises(RunError, match=r"no part can be exported: left out: pair_scorer: ONNX"):
        export_onnx(model, tmp_path)


def test_a_part_that_cannot_be_traced_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_parts(monkeypatch, pair_scorer=lambda values: values[: int(values.sum() > 1) + 1])
    with pytest.raises(RunError, match=r"pair_scorer: torch.export cannot trace it: .*component"):
        programs.export_torch(SimpleNamespace(), tmp_path)  # type: ignore[arg-type]


def test_outputs_that_differ_are_refused() -> None:
    expected = torch.tensor([0.0, 2000.0])
    assert check_close("x", expected + 1e-2, expected) == pytest.approx(1e-2, rel=0.1)
    with pytest.raises(RunError, match=r"x: its output differs from the model's by up to 1,"):
        check_close("x", expected + 1, expected)
    with pytest.raises(RunError, match=r"differs"):
        check_close("x", expected * torch.nan, expected)
    with pytest.raises(RunError, match=r"x: its output has shape \(1,\), the model's has \(2,\)"):
        check_close("x", expected[:1], expected)


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(RunError, match=r"onnxscript is not installed; pip install 'renaissance\["):
        export_onnx(SimpleNamespace(), tmp_path)  # type: ignore[arg-type]

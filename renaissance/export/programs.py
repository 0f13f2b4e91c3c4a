"""The parts of a model as programs that run without Python: torch.export and ONNX."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from renaissance.errors import RunError
from renaissance.export.parts import Part, parts_of
from renaissance.export.probe import NUM_ROWS, check_close
from renaissance.export.towers import write_processor, write_tokenizer
from renaissance.inference.model import Model

# What a program answers to a part's example inputs.
Answers = Callable[[Part], tuple[Tensor, ...]]
OPERATOR = re.compile(r"op='([^']+)'|'?(aten[:.\w]+)'?")
EXTRA = "pip install 'renaissance[onnx]'"


def export_torch(model: Model, folder: Path) -> list[str]:
    """Write a torch.export program of each part, and check it.

    Args:
        model: The model, on the CPU.
        folder: An empty folder.

    Returns:
        What was written, in words.

    Raises:
        RunError: If a part cannot be exported, or its output differs.
    """
    lines = []
    for part, small in _parts(model):
        program = program_of(part)
        path = folder / f"{part.name}.pt2"
        torch.export.save(program, path)
        lines.append(_checked(path, (part, small), _loaded(path)))
    return [*lines, *_write_inputs(model, folder)]


def export_onnx(model: Model, folder: Path) -> list[str]:
    """Write an ONNX file of each part, and check it in onnxruntime.

    A part with an operator that ONNX lacks is left out.

    Args:
        model: The model, on the CPU.
        folder: An empty folder.

    Returns:
        What was written, and what was left out, in words.

    Raises:
        RunError: If no part can be exported, an output differs, or ONNX is not installed.
    """
    _require_onnx()
    lines, left_out = [], []
    for part, small in _parts(model):
        path = folder / f"{part.name}.onnx"
        try:
            _write_onnx(part, path)
        # The exporter's errors are of classes that are not public.
        except Exception as error:
            left_out.append(f"left out: {part.name}: {_reason(error)}")
        else:
            lines.append(_checked(path, (part, small), _session(path)))
    if not lines:
        raise RunError(f"--to onnx: no part can be exported: {'; '.join(left_out)}")
    return [*lines, *left_out, *_write_inputs(model, folder)]


def _parts(model: Model) -> Iterator[tuple[Part, Part]]:
    """Yield each part, and the same with a single row, whose text is shorter."""
    yield from zip(parts_of(model, NUM_ROWS), parts_of(model, 1), strict=True)


def program_of(part: Part) -> ExportedProgram:
    """Trace a part for any number of rows and any length of text.

    Raises:
        RunError: If a component cannot be traced.
    """
    try:
        with torch.no_grad():
            return torch.export.export(
                part.module,
                tuple(part.inputs.values()),
                dynamic_shapes=tuple(part.dynamic.values()),
                strict=False,
            )
    # Components of plugins may do what cannot be traced, and raise anything.
    except Exception as error:
        raise RunError(
            f"{part.name}: torch.export cannot trace it: {str(error).strip().splitlines()[0]}; a "
            "component chooses by values or by Python numbers of rows, instead of by tensors"
        ) from error


def _loaded(path: Path) -> Answers:
    program = torch.export.load(path).module()
    return lambda part: tuple(program(*part.inputs.values()))


def _write_onnx(part: Part, path: Path) -> None:
    exported = torch.onnx.export(
        program_of(part),
        dynamo=True,
        verbose=False,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
    )
    if exported is None:
        raise RunError(f"{part.name}: torch.onnx gave no program")
    exported.save(path)


def _session(path: Path) -> Answers:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(part: Part) -> tuple[Tensor, ...]:
        inputs = {name: tensor.numpy() for name, tensor in part.inputs.items()}
        return tuple(torch.from_numpy(output) for output in session.run(None, inputs))

    return run


def _checked(path: Path, parts: tuple[Part, Part], answers: Answers) -> str:
    """Compare a program with the model, for several rows and for one; return what to print."""
    differences = []
    for part in parts:
        with torch.no_grad():
            outputs = answers(part)
        for name, actual, expected in zip(part.outputs, outputs, part.results(), strict=True):
            differences.append(check_close(f"{part.name}: {name}", actual, expected))
    part = parts[0]
    signature = f"{', '.join(part.inputs)} -> {', '.join(part.outputs)}"
    size = path.stat().st_size / 2**20
    return f"{path.name}: {signature}; {size:.1f} MiB, differs by at most {max(differences):.1g}"


def _reason(error: Exception) -> str:
    """Return why a part cannot be exported; it names the operator, if ONNX lacks one."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for text in map(str, reversed(causes)):
        found = OPERATOR.search(text) if "No ONNX function" in text or "decomp" in text else None
        if found is not None:
            return f"ONNX lacks the operator {found[1] or found[2]}; the other parts can be used"
    return f"{type(causes[-1]).__name__}: {(str(causes[-1]).strip() or '-').splitlines()[0]}"


def _write_inputs(model: Model, folder: Path) -> list[str]:
    """Write what makes the inputs: the tokenizer, and the image processor if there is one."""
    write_tokenizer(model, folder)
    note = write_processor(model, folder)
    return [f"images: {note}"] if note else []


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RunError(f"--to onnx: {error.name} is not installed; {EXTRA}") from error

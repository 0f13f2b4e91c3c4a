"""What `renaissance check` says of a run, against figures from elsewhere."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.arrow_files import rows, spec_with_files, write_arrow
from support.asserting import assert_refused
from support.command_line import renaissance
from support.pictures import encoded, smooth_picture
from support.running import TINY, one_tower_spec, run_here, write_spec
from support.terminal import on_a_terminal, visible_lines
from support.tiny_models import save_model
from torch import nn
from torch.profiler import ProfilerActivity, profile

from renaissance.builtin.heads.linear import Linear
from renaissance.cli import main
from renaissance.data.order import sample_at
from renaissance.engine.estimate import Estimate, estimate, part_sizes
from renaissance.engine.run_folder import RunFolder
from renaissance.engine.run_parts import RunParts, build
from renaissance.errors import CheckpointError
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

# Large enough that rounding to MiB and to GFLOP leaves something.
WIDER = {
    "hidden_size = 16": "hidden_size = 64",
    "intermediate_size = 32": "intermediate_size = 256",
    "num_hidden_layers = 1": "num_hidden_layers = 3",
    "patch_size = 16": "patch_size = 8",
    "image_size = 32": "image_size = 64",
    "global_batch_size = 8": "global_batch_size = 32",
    "num_samples = 50": "num_samples = 500",
}
HIDDEN, INTERMEDIATE, LAYERS, PATCH, SIZE = 64, 256, 3, 8, 64
NUM_SAMPLES = 32


def wider(text: str) -> str:
    for old, new in WIDER.items():
        text = text.replace(old, new)
    return text


def build_parts(spec: Path, *settings: str, device: str = "cpu") -> RunParts:
    plugins = load_plugins()
    with torch.device(device):
        return build(load_spec([str(spec), *settings], plugins), 1, load_weights=False)


def estimate_of(spec: Path, *settings: str) -> Estimate:
    parts = build_parts(spec, *settings, device="meta")
    batch = build_parts(spec, *settings).train[[(0, i) for i in range(NUM_SAMPLES)]]
    with torch.device("meta"):
        return estimate(parts, batch, {"adamw": 2, "sgd": 1}[parts.spec.optimizer.type])


def parts_of(output: str) -> dict[str, tuple[int, int]]:
    """Return parameters and trainable parameters by part, from the printed table."""
    lines = re.findall(r"^ ([\w ]+?) +([\d,]+) +([\d,]+) +[\d.]+ *$", output, re.M)
    return {n: (int(a.replace(",", "")), int(t.replace(",", ""))) for n, a, t in lines}


# --- what it prints ---


@pytest.mark.parametrize("text", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_parameters_are_those_of_the_real_model(tmp_path: Path, text: str) -> None:
    spec = write_spec(tmp_path, text)
    finished = renaissance("check", str(spec))
    assert finished.code == 0, finished.err
    network = build_parts(spec).network
    modules: dict[str, nn.Module] = dict(network.model.named_children())
    modules |= {f"objective {name}": module for name, module in network.objectives.items()}
    numbers = {n: sum(p.numel() for p in m.parameters()) for n, m in modules.items()}
    total = sum(p.numel() for p in network.parameters())
    assert parts_of(finished.out) == {
        **{name: (number, number) for name, number in numbers.items()},
        "total": (total, total),
    }
    assert finished.out.splitlines()[-1] == "ok: this run can start"
    # Nothing was started.
    assert list(tmp_path.iterdir()) == [spec]


def test_frozen_parts_train_nothing(tmp_path: Path) -> None:
    frozen = ["model.text_encoder.frozen=true", "model.fusion.frozen=true"]
    parts = parts_of(renaissance("check", str(write_spec(tmp_path)), *frozen).out)
    assert parts["text_encoder"][0] > 0
    assert parts["text_encoder"][1] == parts["fusion"][1] == 0
    assert parts["image_encoder"][1] == parts["image_encoder"][0] > 0
    left = parts["text_encoder"][0] + parts["fusion"][0]
    assert parts["total"][1] == parts["total"][0] - left


def test_the_arithmetic_of_steps_and_ranks(tmp_path: Path) -> None:
    settings = ["train.global_batch_size=24", "train.micro_batch_size=3", "train.max_steps=100"]
    settings += ["schedule.warmup_steps=0.1", "--ranks", "4"]
    lines = renaissance("check", str(write_spec(tmp_path)), *settings).out.splitlines()
    assert "train: 50 samples: 50 of data.train[0] ('shapes')" in lines
    assert "validate: 21 samples: 21 of data.validate[0] ('shapes')" in lines
    assert "batch: 24 samples per step = 3 (micro-batch) x 2 (accumulation) x 4 (ranks)" in lines
    # 50 / 24 steps, 100 * 24 / 50 epochs.
    assert "steps: 2.1 per epoch, 100 in all (48.00 epochs), 10 of them warm-up" in lines
    assert "evaluated: after every 5 steps and the last step" in lines


@pytest.mark.parametrize(("num_gpus", "expected"), [(0, 1), (4, 4)])
def test_auto_is_as_many_ranks_as_training_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_gpus: int, expected: int
) -> None:
    monkeypatch.setattr("renaissance.elastic.num_gpus", lambda: num_gpus)
    settings = ["train.device=auto", "--ranks", "auto"]
    output = renaissance("check", str(write_spec(tmp_path)), *settings).out
    assert f"x {expected} (ranks)" in output
    refused = renaissance("check", str(write_spec(tmp_path)), "--ranks", "none")
    assert refused.code == 2
    assert "--ranks: got 'none', expected a number of processes, or auto" in refused.err


def test_what_depends_on_how_a_batch_is_divided(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    more = ["objectives=[{type='itc'}, {type='itm'}, {type='mlm'}]", "train.global_batch_size=24"]
    whole = renaissance("check", str(spec), *more).out
    assert "samples at once" not in whole
    divided = renaissance("check", str(spec), *more, "train.micro_batch_size=3", "--ranks", "4").out
    (itc,) = [line for line in divided.splitlines() if "candidates of 'itc'" in line]
    assert itc.startswith("candidates of 'itc': 12 samples at once, of 24 per step; another train.")
    assert "candidates of 'itm': 3 samples at once, of 24 per step" in divided
    settings = [*more, "objectives.0.candidates=global", "train.micro_batch_size=3"]
    assert "candidates of 'itc': all 24 samples of a step in two passes, however it is divided" in (
        renaissance("check", str(spec), *settings).out
    )
    assert "'mlm'" not in divided
    save_model(tmp_path / "resnet", "resnet")
    resnet = [f"model.image_encoder={{type='hf-image', checkpoint='{tmp_path}/resnet'}}"]
    output = renaissance("check", str(spec), *resnet, "train.micro_batch_size=2").out
    assert "batch norms of image_encoder: 2 samples at once, of 8 per step" in output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["run.output_dir={folder}/file/runs"], "run.output_dir: cannot create {folder}/file/runs"),
        (
            ["run.output_dir=" + "x" * 260],
            "run.output_dir: cannot create " + "x" * 260 + "/tiny: File name too long; choose",
        ),
        (
            ["run.name=" + "x" * 300],
            "run.name: got a name of 300 bytes, expected at most 255, the longest that file",
        ),
        (
            ["run.output_dir={folder}/link"],
            "run.output_dir: cannot create {folder}/link/tiny: {folder}/link is a link that leads",
        ),
        (['run.output_dir="a\\u0000b"'], "got 'a\\x00b', expected a text without NUL characters"),
        (["data.tokenizer=" + "x" * 300], "data.tokenizer: cannot load a tokenizer from the name"),
        (
            ["model.init_from=" + "x" * 300],
            "x" * 77 + "...: File name too long; no file can have this name",
        ),
        (
            ["data.train=[{{type='image-text', files='" + "x" * 300 + "'}}]"],
            "x" * 77 + "...: File name too long; no file can have this name",
        ),
        (["train.device=cuda"], "train.device: 'cuda', but torch finds no CUDA device"),
        (["data.num_workers=10000"], "data.num_workers: got 10,000, more than "),
        (["train.global_batch_size=1000000000"], "train.micro_batch_size: a rank would take about"),
        (["data.cache=pixels", "data.cache_folder={folder}/file/x"], "{folder}/file/x"),
        (
            ["model.text_encoder.config.is_decoder=true"],
            "hf-text: 'bert' reads in one direction: its tokens do not see those after them",
        ),
    ],
)
def test_what_cannot_start_is_not_ok(
    tmp_path: Path, settings: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    given = [setting.format(folder=tmp_path) for setting in settings]
    spec = str(write_spec(tmp_path))
    for command in ("check", "train"):
        finished = renaissance(command, spec, f"run.output_dir={tmp_path}", *given)
        assert finished.code == 2
        assert message.format(folder=tmp_path) in " ".join(finished.err.split())
        assert "ok: this run can start" not in finished.out
        assert not (tmp_path / "tiny/metrics.jsonl").exists()


def test_check_goes_on_from_where_training_would(tmp_path: Path) -> None:
    spec, output = str(write_spec(tmp_path)), f"run.output_dir={tmp_path}"
    settings = [output, "train.max_steps=4", "evaluate.every_steps=2", "train.precision=auto"]
    assert renaissance("train", spec, *settings).code == 0
    run = RunFolder(tmp_path / "tiny")
    last = run.checkpoint(4)
    (last / "spec.toml").write_bytes(b"")
    finished = renaissance("check", spec, *settings)
    assert finished.code == 0, finished.err
    said = " ".join(finished.out.split())
    assert f"warning: {last}/spec.toml: damaged: 0 bytes with another digest" in said
    assert f"weights: resumes from {run.checkpoint(2)}, step 2" in said
    # Nothing is changed, nor in the way of the run that does.
    assert run.checkpoints() == [run.checkpoint(2), last]
    finished = renaissance("check", spec, *settings, "run.resume=never")
    assert finished.code == 2
    assert f"run.resume: 'never', but {run.path} holds checkpoints" in finished.err
    (run.checkpoint(2) / "model.safetensors").unlink()
    for command in ("check", "train"):
        finished = renaissance(command, spec, *settings)
        assert finished.code == 2
        assert f"{run.path}: none of its checkpoints is whole: " in finished.err


def test_where_weights_come_from(tmp_path: Path) -> None:
    save_model(tmp_path / "vit", "vit")
    start, end = TINY.index("[model.image_encoder]"), TINY.index("[model.fusion]")
    encoder = f'[model.image_encoder]\ntype = "hf-image"\ncheckpoint = "{tmp_path}/vit"\n'
    spec = write_spec(tmp_path, TINY[:start] + encoder + TINY[end:])
    output = f"run.output_dir={tmp_path}"
    new = renaissance("check", str(spec), output).out.splitlines()
    assert "weights of image_encoder: local folder " + str(tmp_path / "vit") in new
    assert "weights of text_encoder: random, architecture bert" in new
    assert "weights of all other parts: random" in new

    run_here(spec, tmp_path, "train.max_steps=1", "data.validate=[]")
    checkpoint = tmp_path / "tiny/checkpoints/step-00000001"
    resumed = renaissance("check", str(spec), output).out.splitlines()
    assert f"weights: resumes from {checkpoint}, step 1" in resumed
    settings = [output, "run.name=next", f"model.init_from={tmp_path}/tiny"]
    started = renaissance("check", str(spec), *settings).out.splitlines()
    assert f"parameters from {checkpoint}" in started


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_text(LFS), "is a git-lfs pointer, not the file itself; run 'git"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "is cut off or damaged"),
        (lambda path: path.write_bytes(b""), "is cut off or damaged"),
    ],
    ids=["pointer", "cut", "empty"],
)
def test_weights_that_cannot_be_read_are_named_by_check_and_run(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    save_model(tmp_path / "vit", "vit")
    start, end = TINY.index("[model.image_encoder]"), TINY.index("[model.fusion]")
    encoder = f'[model.image_encoder]\ntype = "hf-image"\ncheckpoint = "{tmp_path}/vit"\n'
    spec = write_spec(tmp_path, TINY[:start] + encoder + TINY[end:])
    path = tmp_path / "vit" / "model.safetensors"
    damage(path)
    finished = renaissance("check", str(spec), f"run.output_dir={tmp_path}")
    assert finished.code == 2
    assert f"hf-image: checkpoint: {path}: {reason}" in " ".join(finished.err.split())
    with pytest.raises(CheckpointError, match=r"hf-image: checkpoint: .*model\.safetensors: is "):
        run_here(spec, tmp_path)
    path.unlink()
    finished = renaissance("check", str(spec), f"run.output_dir={tmp_path}")
    assert "cannot be loaded: it has no model.safetensors" in " ".join(finished.err.split())


def test_a_validation_split_that_cannot_be_collated(tmp_path: Path) -> None:
    # Of one image, so that a false pair has nothing to be made of.
    spec = spec_with_files(tmp_path)
    write_arrow(tmp_path / "train.arrow", rows(30))
    write_arrow(tmp_path / "val.arrow", rows(1, num_captions=30))
    settings = ["objectives=[{type='itm'}]"]
    settings += ["data.validate=[{type='image-text', files='val.arrow'}]"]
    finished = renaissance("check", str(spec), *settings)
    assert finished.code == 2
    assert "matching needs a dataset of at least two different images" in " ".join(
        finished.err.split()
    )


def test_a_component_that_the_meta_device_cannot_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Linear.__init__

    def compute(self: Linear, *arguments: object) -> None:
        assert torch.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
        make(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Linear, "__init__", compute)
    finished = renaissance("check", str(write_spec(tmp_path)))
    assert finished.code == 0, finished.err
    assert "memory per rank, estimated: " in finished.out


def test_samples_are_those_of_the_first_steps(tmp_path: Path) -> None:
    # Neighbours in the file share an image, which is encoded once; samples drawn at random do not.
    spec = spec_with_files(tmp_path)
    write_arrow(tmp_path / "train.arrow", rows(200, num_captions=5))
    wide = wider(spec.read_text())
    spec.write_text(wide)
    output = renaissance("check", str(spec), "objectives=[{type='mlm'}]").out
    images = {sample_at(p, 1000, seed=0)[1] // 5 for p in range(NUM_SAMPLES)}
    expected = len(images) / NUM_SAMPLES * vit_flops() / 1e9
    (printed,) = re.findall(r"^ image_encoder .* ([\d.]+) *$", output, re.M)
    assert float(printed) == pytest.approx(expected, abs=0.0005)


# --- operations ---


NUM_PATCHES = (SIZE // PATCH) ** 2
PATCH_FLOPS = 2 * NUM_PATCHES * 3 * PATCH**2 * HIDDEN


def stack_flops(num_tokens: int, num_layers: int) -> int:
    """Twice the weights a token, and the two products of attention."""
    weights = 4 * HIDDEN**2 + 2 * HIDDEN * INTERMEDIATE
    return num_layers * (2 * weights * num_tokens + 4 * num_tokens**2 * HIDDEN)


def vit_flops() -> int:
    return stack_flops(NUM_PATCHES + 1, LAYERS) + PATCH_FLOPS


def test_operations_of_two_towers(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, wider(TINY))
    settings = ["objectives=[{type='mlm'}]"]
    batch = build_parts(spec, *settings).train[[(0, i) for i in range(NUM_SAMPLES)]]
    flops = estimate_of(spec, *settings).flops
    # Several texts share a row.
    num_rows, num_tokens = batch.packing.texts.shape
    assert num_rows * num_tokens < batch.input_ids.numel()
    assert flops["text_encoder"] == num_rows * stack_flops(num_tokens, LAYERS) // NUM_SAMPLES
    # Pictures of the same scene are encoded once.
    num_images = len(batch.pixel_values)
    assert flops["image_encoder"] == vit_flops() * num_images // NUM_SAMPLES
    vocabulary = len(build_parts(spec).tokenizer)
    head = 2 * batch.objectives["mlm"].num_targets * (HIDDEN**2 + HIDDEN * vocabulary)
    assert flops["objective mlm"] == head // NUM_SAMPLES


def test_operations_of_one_tower(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, wider(one_tower_spec()))
    settings = ["objectives=[{type='mlm'}]"]
    batch = build_parts(spec, *settings).train[[(0, i) for i in range(NUM_SAMPLES)]]
    num_tokens = batch.input_ids.shape[1] + NUM_PATCHES + 1
    joint = stack_flops(num_tokens, num_layers=2) * NUM_SAMPLES
    flops = estimate_of(spec, *settings).flops
    assert flops["encoder"] == (PATCH_FLOPS * len(batch.pixel_values) + joint) // NUM_SAMPLES


def test_eighty_columns_wrap_between_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = str(write_spec(tmp_path))
    in_a_pipe = renaissance("check", spec).out
    monkeypatch.setattr("sys.argv", ["renaissance", "check", spec])

    def check() -> None:
        with pytest.raises(SystemExit):
            main()

    lines = visible_lines(on_a_terminal(check, monkeypatch))
    assert max(map(len, lines)) <= 80
    # Nothing is cut off, and no word is broken.
    assert " ".join(lines).split() == in_a_pipe.split()


# --- memory ---


def measured_activations(spec: Path) -> int:
    """Return the most that the allocator held at once during a step, beyond weights, bytes."""
    parts = build_parts(spec)
    batch = parts.train[[(0, i) for i in range(NUM_SAMPLES)]]
    network = parts.network.train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        outputs = network(batch)
        torch.autograd.backward(sum(output.loss_sum for output in outputs.values()))
    trace = spec.parent / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    held, most = 0, 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


@pytest.mark.parametrize("text", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_memory_is_that_of_a_real_step(tmp_path: Path, text: str) -> None:
    spec = write_spec(tmp_path, wider(text))
    memory = estimate_of(spec).memory
    num_parameters = sum(size.num_parameters for size in part_sizes(build_parts(spec).network))
    assert memory.parameters + memory.gradients + memory.optimizer == 16 * num_parameters
    ratio = memory.activations / measured_activations(spec)
    assert 1 / 1.3 < ratio < 1.3
    assert memory.total == 16 * num_parameters + memory.activations


def test_memory_of_other_settings(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, wider(TINY))
    whole = estimate_of(spec).memory
    # A micro-batch is what is in memory at once, however large the step.
    quarter = estimate_of(spec, "train.micro_batch_size=8").memory
    assert quarter.activations == pytest.approx(whole.activations / 4, rel=1e-6)
    assert estimate_of(spec, "optimizer.type=sgd").memory.optimizer == whole.optimizer // 2
    frozen = estimate_of(spec, "model.image_encoder.frozen=true").memory
    assert frozen.activations < whole.activations
    assert frozen.parameters == whole.parameters
    encoder = sum(p.numel() for p in build_parts(spec).network.model.image_encoder.parameters())
    assert whole.gradients - frozen.gradients == 4 * encoder
    half = estimate_of(spec, "train.precision=bf16").memory
    assert 0.5 < half.activations / whole.activations < 0.7


@pytest.mark.parametrize(
    ("transform", "line"),
    [
        (
            "imagenet",
            "images: 'imagenet' cuts off 54% of the area of 2 sampled images on average, 75% at "
            "most; 'stretch' and 'pixelbert' keep all",
        ),
        ("stretch", "images: 'stretch' shows the whole of 2 sampled images"),
        ("pixelbert", "images: 'pixelbert' shows the whole of 2 sampled images"),
    ],
)
def test_the_share_of_the_images_that_is_lost(tmp_path: Path, transform: str, line: str) -> None:
    pictures = [encoded(smooth_picture(*size), "JPEG") for size in ((400, 100), (60, 90))]
    records = [{"image": picture, "caption": ["a photo of it"]} for picture in pictures]
    spec = spec_with_files(tmp_path)
    write_arrow(tmp_path / "train.arrow", records)
    settings = [f"data.transform.type={transform}", "train.global_batch_size=2"]
    finished = renaissance("check", str(spec), *settings)
    assert finished.code == 0, finished.err
    assert line in finished.out.splitlines()


def test_a_random_crop_has_no_fixed_loss(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    finished = renaissance("check", str(spec), "data.transform.random_resized_crop=[0.2, 1.0]")
    assert (finished.code, "images:" in finished.out) == (0, False)


def test_a_step_on_many_gpus_is_estimated(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, wider(TINY))
    command = ["check", str(spec), "train.global_batch_size=64", "train.micro_batch_size=2"]
    many = ["--nodes", "4", "--gpus", "4", "--network", "0.008", "--tflops", "0.001"]
    printed = renaissance(*command, *many).out
    assert "batch: 64 samples per step = 2 (micro-batch) x 2 (accumulation) x 16 (ranks)" in printed
    costs = estimate_of(spec)
    # All of it is trained: three times the forward pass, of 4 samples, at 10**9 per second.
    compute = 3 * sum(costs.flops.values()) * 4 / 1e9
    exchange = 2 * 15 / 16 * costs.memory.gradients / 1e6
    exposed = max(exchange - compute / 2 * 2 / 3, min(exchange, 2 * 15 / 16 * 25 * 2**20 / 1e6))
    found = re.search(
        r"a step on 4 nodes of 4 GPUs, estimated: ([\d.]+) s = compute ([\d.]+) s \+ ([\d.]+) s of "
        r"exchanging ([\d.,]+) MiB of gradients, which takes ([\d.]+) s",
        printed,
    )
    assert found is not None
    total, shown_compute, shown_exposed, size, shown_exchange = map(float, found.groups())
    assert shown_compute == pytest.approx(compute, rel=0.05)
    assert shown_exchange == pytest.approx(exchange, rel=0.01)
    assert shown_exposed == pytest.approx(exposed, rel=0.01)
    assert total == pytest.approx(shown_compute + shown_exposed, abs=0.002)
    assert size == pytest.approx(costs.memory.gradients / 2**20, abs=0.1)
    assert "reaches 0.001 TFLOP/s, 2,400 Gbit/s between" in printed
    assert_refused(
        renaissance(*command, "--nodes", "2", "--ranks", "4"),
        "--ranks: got 4, but --nodes x --gpus is the number of ranks",
    )

"""What matters for speed on one GPU, in one call of under eight minutes.

    python benchmarks/gpu.py                       # one H100 or H200, 16 cores
    python benchmarks/gpu.py --device cpu --tiny   # every section, in miniature

"base" is ViT-B/16 and BERT-base with six co-attention layers of 768; "small" is DeiT-tiny and
ELECTRA-small with six LXMERT layers of 256. Both learn masked words and matching, in bf16, from
texts as long as captions. Each section has a limit in seconds and prints as it ends; one that fails
says why, and the rest goes on. The figures are written to $OUT/gpu.json, if OUT is set.
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import loader as photos
import loop as real_loop
import step as plain
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

from renaissance.data.loader import MicroBatchLoader
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.order import TrainingOrder
from renaissance.data.workers import count_workers
from renaissance.engine.checkpoint import TrainState, take_snapshot
from renaissance.engine.compiling import layers_of
from renaissance.engine.distributed import Ranks
from renaissance.engine.optim import make_optimizer
from renaissance.engine.precision import autocast
from renaissance.engine.run_parts import RunParts, build
from renaissance.engine.unused import freeze_unused_parameters
from renaissance.engine.writing import write_snapshot
from renaissance.plugins.loading import load_plugins
from renaissance.spec.batch_plan import BatchPlan
from renaissance.spec.read import load_spec

# Dense bf16 of H100 and H200, FLOP/s by the datasheet; MFU (model FLOPs utilization) refers to it.
PEAK = 989e12
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": plain.MASK_ID}


@attrs.frozen
class Shapes:
    """A model's types and widths: text, image and fusion."""

    text: tuple[str, int, int, int]
    image: tuple[str, int, int, int]
    fusion: tuple[str, int, int, int]


BASE = Shapes(("bert", 768, 12, 12), ("vit", 768, 12, 12), ("co-attention", 768, 6, 12))
SMALL = Shapes(("electra", 256, 12, 4), ("deit", 192, 12, 3), ("lxmert", 256, 6, 4))
TINY = Shapes(("bert", 32, 2, 2), ("vit", 32, 2, 2), ("co-attention", 32, 2, 2))


def encoder(kind: str, architecture: str, width: int, layers: int, heads: int) -> str:
    return f"""
[model.{kind}_encoder]
type = "hf-{kind}"
architecture = "{architecture}"
[model.{kind}_encoder.config]
hidden_size = {width}
num_hidden_layers = {layers}
num_attention_heads = {heads}
intermediate_size = {4 * width}
"""


def spec_of(shapes: Shapes, image_size: int, folder: Path, images: str | None = None) -> str:
    name, width, layers, heads = shapes.fusion
    dataset = 'type = "shapes", num_samples = 4096, image_size = 64'
    if images is not None:
        dataset = f'type = "image-text", files = "{images}"'
    return f"""
{encoder("text", *shapes.text)}{encoder("image", *shapes.image)}
[model.fusion]
type = "{name}"
hidden_size = {width}
num_layers = {layers}
num_heads = {heads}
[data]
image_size = {image_size}
tokenizer = "{folder / "tokenizer"}"
train = [{{ {dataset} }}]
[[objectives]]
type = "mlm"
[[objectives]]
type = "itm"
[train]
global_batch_size = 8
"""


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer with as many words as BERT's, on which the head's size depends."""
    taken = set(SPECIAL.values())
    words = {f"w{i}": i for i in range(plain.VOCAB_SIZE) if i not in taken}
    tokenizer = Tokenizer(WordLevel(SPECIAL | words, unk_token="[UNK]"))
    ends = [(name, SPECIAL[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


class Bench:
    """The sections, and the figures that they find.

    Args:
        device: Where to measure.
        is_tiny: Whether to run miniatures, which show only that everything runs.
        folder: For files.
    """

    def __init__(self, device: torch.device, is_tiny: bool, folder: Path) -> None:
        self.device, self.is_tiny, self.folder = device, is_tiny, folder
        self.figures: dict[str, Any] = {"torch": torch.__version__}
        if device.type == "cuda":
            self.figures["card"] = torch.cuda.get_device_name(device).replace(" ", "-")
        write_tokenizer(folder / "tokenizer")

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, step: Callable[[], object], repeats: int = 8) -> tuple[float, float]:
        """Return the median seconds of a step, and those until the host is free again."""
        repeats = 1 if self.is_tiny else repeats
        for _ in range(1 if self.is_tiny else 3):
            step()
        self.wait()
        whole, host = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            step()
            host.append(time.perf_counter() - start)
            self.wait()
            whole.append(time.perf_counter() - start)
        return statistics.median(whole), statistics.median(host)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=torch.bfloat16)

    def ceilings(self) -> None:
        """What copies and matrix products reach, in TB/s and TFLOP/s."""
        size = 2**18 if self.is_tiny else 2**28
        source = torch.ones(size, device=self.device)
        target = torch.empty_like(source)
        self.figures["copy_tb_s"] = 8 * size / self.timed(lambda: target.copy_(source))[0] / 1e12
        shapes = {"8k": (8192, 8192, 8192), "ffn768": (100_864, 768, 3072)}
        for name, (rows, inner, columns) in ({"8": (8, 8, 8)} if self.is_tiny else shapes).items():
            a, b = self.random(rows, inner), self.random(inner, columns)
            seconds, _ = self.timed(lambda a=a, b=b: a @ b)  # type: ignore[misc]
            self.figures[f"matmul_{name}_tflops"] = 2 * rows * inner * columns / seconds / 1e12

    def attention(self) -> None:
        """Forward and backward of a fusion's attention by kind of mask, in ms."""
        pairs, heads, width = (2, 2, 8) if self.is_tiny else (512, 12, 64)
        for queries, keys in ((197, 197), (197, 32), (32, 197), (577, 577)):
            states = [self.random(pairs, heads, n, width) for n in (queries, keys, keys)]
            query, key, value = (state.requires_grad_() for state in states)
            real = torch.ones(pairs, 1, 1, keys, dtype=torch.bool, device=self.device)
            masks = {"none": None, "bool": real, "bias": torch.zeros_like(real).to(query.dtype)}
            for kind, mask in masks.items():
                for dropout in (0.0, 0.1):

                    def step(mask: Tensor | None = mask, dropout: float = dropout) -> None:
                        output = F.scaled_dot_product_attention(query, key, value, mask, dropout)  # noqa: B023
                        output.sum().backward()

                    name = f"attention_{queries}x{keys}_{kind}_dropout{dropout:.1f}_ms"
                    self.figures[name] = self.timed(step, 5)[0] * 1e3

    def parts(self, shapes: Shapes, image_size: int, images: str | None = None) -> RunParts:
        file = self.folder / "run.toml"
        file.write_text(spec_of(shapes, image_size, self.folder, images))
        spec = load_spec([str(file), f"run.output_dir={self.folder}"], load_plugins())
        parts = build(spec, world_size=1, load_weights=True)
        parts.network.to(self.device).train()
        return parts

    def batch(self, size: int, image_size: int) -> MicroBatch:
        data, _ = plain.make_data(size)
        pixels = torch.randint(256, (size, 3, image_size, image_size), dtype=torch.uint8)
        return plain.collate(attrs.evolve(data, pixels=pixels)).to(self.device)

    def step(self, parts: RunParts, batch: MicroBatch) -> Callable[[], None]:
        optimizer = make_optimizer(parts.network, parts.spec.optimizer)

        def step() -> None:
            with autocast("bf16", self.device, training=True):
                outputs = parts.network(batch)
            losses = [o.loss_sum / batch.objectives[n].num_targets for n, o in outputs.items()]
            torch.stack(losses).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def measure(
        self, label: str, shapes: Shapes, image_size: int, sizes: list[int], ways: list[str]
    ) -> None:
        """Measure steps: eager, with compiled layers, and with CUDA graphs of them."""
        if self.is_tiny:
            shapes, image_size, sizes, ways = TINY, 32, [4], ["eager"]
        for way in ways:
            torch._dynamo.reset()
            parts = self.parts(shapes, image_size)
            probe = parts.train[[(0, index) for index in range(4)]]
            freeze_unused_parameters(parts.network, probe, Ranks(self.device.type))
            if way != "eager":
                mode = "reduce-overhead" if way == "graphs" else None
                for part in parts.network.model.parts().values():
                    for layer in layers_of(part):
                        layer.compile(mode=mode)
            for size in sizes:
                step = self.step(parts, self.batch(size, image_size))
                self.measure_step(f"{label}_b{size}_{way}", step, size, counts=way == "eager")

    def measure_step(self, name: str, step: Callable[[], None], size: int, counts: bool) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        step()
        self.wait()
        first = time.perf_counter() - began
        seconds, host = self.timed(step)
        found = {"samples_s": size / seconds, "ms": seconds * 1e3, "host_ms": host * 1e3}
        found["first_s"] = first
        flops = name.rpartition("_")[0] + "_gflop_sample"
        if counts:
            with FlopCounterMode(display=False) as counter:
                step()
            self.figures[flops] = counter.get_total_flops() / size / 1e9
        if flops in self.figures:
            found["mfu"] = self.figures[flops] * 1e9 * size / seconds / PEAK
        if self.device.type == "cuda":
            found["gib"] = torch.cuda.max_memory_allocated() / 2**30
            found |= self.kernels(step)
        self.figures |= {f"{name}_{key}": value for key, value in found.items()}

    def kernels(self, step: Callable[[], None]) -> dict[str, float]:
        """Count kernels and waits of a step, and add up the milliseconds of kinds of kernels."""
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
        torch.cuda.set_sync_debug_mode("default")
        found: dict[str, float] = {"waits": sum("synchroniz" in str(w.message) for w in caught)}
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            step()
            self.wait()
        kinds = {
            "attention": ("fmha", "flash", "attention", "sdpa"),
            "matmul": ("gemm", "cutlass", "nvjet", "xmma", "cublas"),
        }
        on_device = torch.autograd.DeviceType.CUDA
        for event in profiled.events():
            if event.device_type != on_device:
                continue
            words = ((kind, any(w in event.name.lower() for w in ws)) for kind, ws in kinds.items())
            kind = next((kind for kind, fits in words if fits), "other")
            for key, value in ((f"{kind}_ms", event.device_time / 1e3), ("kernels", 1)):
                found[key] = found.get(key, 0.0) + value
        return found

    def plain(self) -> None:
        """The plain step of benchmarks/step.py, in bf16 with the fused optimizer, on the device."""
        size = 1 if self.is_tiny else 256
        data, _ = plain.make_data(size)
        step = plain.plain_step(plain.PlainTwoTower(0.0), data, self.device, bf16=True)
        self.figures[f"plain_small_b{size}_samples_s"] = size / self.timed(step)[0]

    def loop(self) -> None:
        """The real loop: its own share of a step, and the share that data takes without workers."""
        steps, size = (1, 2) if self.is_tiny else (8, 256)
        folder = self.folder / "loop"
        folder.mkdir()
        seconds = real_loop.measure(folder, steps, size, self.device.type)
        work = seconds["forward"] + seconds["backward"] + seconds["optimizer"]
        own = seconds["total"] - seconds["data"] - work
        self.figures["loop_own_share"] = own / (own + work)
        self.figures["loop_data_share"] = seconds["data"] / seconds["total"]

    def loader(self) -> None:
        """Images per second through the loader, with workers on all cores."""
        photos.NUM_IMAGES = 4 if self.is_tiny else 64
        files = photos.encoded(photos.photo_like()) * (1 if self.is_tiny else 64)
        photos.write_table(self.folder / "images.arrow", files)
        parts = self.parts(TINY, 224, str(self.folder / "images.arrow"))
        size, num_batches = (4, 2) if self.is_tiny else (128, 100)
        workers = 0 if self.is_tiny else count_workers("auto")
        plan = BatchPlan(size, size, 1, 1)
        order = TrainingOrder(plan, 0, parts.stream(), start=0, stop=size * (num_batches + 1))
        batches = iter(MicroBatchLoader(parts.train, order, workers, self.device))
        next(batches)
        began = time.perf_counter()
        for batch in batches:
            batch.to(self.device)
        self.figures["loader_images_s"] = size * num_batches / (time.perf_counter() - began)
        self.figures["loader_workers"] = workers

    def checkpoint(self) -> None:
        """How long a step waits for a checkpoint, and how long the thread takes to write it."""
        parts = self.parts(TINY if self.is_tiny else BASE, 32 if self.is_tiny else 224)
        optimizer = make_optimizer(parts.network, parts.spec.optimizer)
        for parameter in parts.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        self.wait()
        # The first copy allocates the pinned memory, which later ones use again.
        for name in ("first", "next"):
            began = time.perf_counter()
            snapshot = take_snapshot(parts.network, optimizer, TrainState(), "")
            self.figures[f"checkpoint_{name}_host_s"] = time.perf_counter() - began
            self.wait()
            self.figures[f"checkpoint_{name}_stall_s"] = time.perf_counter() - began
        began = time.perf_counter()
        written = write_snapshot(self.folder / "step-00000001", snapshot)
        self.figures["checkpoint_write_s"] = time.perf_counter() - began
        size = sum(file.stat().st_size for file in written.iterdir())
        self.figures["checkpoint_gb"] = size / 1e9

    def sections(self) -> list[tuple[str, int, Callable[[], None]]]:
        """Return name, limit in seconds, and function; the most important ones first."""
        eager, both = ["eager"], ["eager", "layers"]
        return [
            ("ceilings", 10, self.ceilings),
            ("base", 110, lambda: self.measure("base", BASE, 224, [256], both)),
            ("plain", 30, self.plain),
            (
                "small",
                110,
                lambda: self.measure("small", SMALL, 224, [64, 256, 512], [*both, "graphs"]),
            ),
            ("checkpoint", 30, self.checkpoint),
            ("loader", 40, self.loader),
            ("loop", 40, self.loop),
            ("attention", 20, self.attention),
            ("base384", 40, lambda: self.measure("base384", BASE, 384, [96], eager)),
        ]

    def run(self, name: str, limit: float, section: Callable[[], None]) -> None:
        """Run a section within its limit; whatever goes wrong there stays there."""
        began = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            section()
        except Exception as error:
            self.figures[f"{name}_failed"] = type(error).__name__
            print(f"{name}: {traceback.format_exc(limit=-3)}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="miniatures of every section")
    parser.add_argument("--only", nargs="+", help="names of sections")
    parser.add_argument("--budget", type=float, default=450, help="seconds for all sections")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, out_of_time)
    end = time.monotonic() + arguments.budget
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(torch.device(arguments.device), arguments.tiny, Path(folder))
        for name, limit, section in bench.sections():
            left = end - time.monotonic()
            if arguments.only and name not in arguments.only:
                continue
            if left <= 0:
                print(f"{name}: left out, since the budget is spent")
                continue
            # Miniatures run beside other tests.
            bench.run(name, min(limit * 10 if arguments.tiny else limit, left), section)
    figures = {k: round(v, 4) if isinstance(v, float) else v for k, v in bench.figures.items()}
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "gpu.json").write_text(json.dumps(figures, indent=1))
    print(" ".join(f"{key}={value}" for key, value in figures.items()))


def out_of_time(*_: object) -> None:
    raise TimeoutError("the section has reached its limit")


if __name__ == "__main__":
    main()

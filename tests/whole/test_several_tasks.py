"""Datasets with weights, and datasets that are for some of the objectives only."""

from collections import Counter
from pathlib import Path

import pytest
from support.asserting import assert_same_figures, assert_same_weights
from support.running import TINY, metrics, one_tower_spec, run_here, torchrun, write_spec

from renaissance import CheckpointError, DataError, SpecError, keyed_generator
from renaissance.data.order import SampleStream
from renaissance.engine.run_parts import build
from renaissance.plugins.loading import load_plugins
from renaissance.spec.read import load_spec

SENTENCE_LENGTH = '''
"""A text-only objective: is the sentence longer than eight tokens?"""

import attrs
import torch
import torch.nn.functional as F
from renaissance import Objective, ObjectiveBatch, ObjectiveOutput, hookimpl


class SentenceLength(Objective):
    """Tells long sentences from short ones."""

    requires = frozenset({"text"})
    unimodal = frozenset({"text"})

    default_head = "linear"

    @attrs.frozen
    class Options:
        """No options."""

    def __init__(self, options, context):
        super().__init__()
        self.head = context.make_head(context.sizes.text, 2)

    def collate(self, samples, builder):
        rows = [builder.text(sample) for sample in samples]
        labels = [int(len(builder.input_ids(sample)) > 8) for sample in samples]
        return ObjectiveBatch(
            len(samples), tensors={"rows": torch.tensor(rows), "labels": torch.tensor(labels)}
        )

    def forward(self, batch, features):
        logits = self.head(features.text.hidden_states[batch.tensors["rows"], 0])
        return ObjectiveOutput(F.cross_entropy(logits, batch.tensors["labels"], reduction="sum"))


@hookimpl
def register_objectives(register):
    register("sentence-length", SentenceLength)
'''


def routed(spec: str) -> str:
    """Give the tiny spec a second dataset, for a text-only objective."""
    spec = spec.replace('name = "tiny"', 'name = "tiny"\nplugins = ["./length.py"]')
    first = '[[data.train]]\ntype = "shapes"\n'
    second = 'weight = 1\nobjectives = ["sentence-length"]\nnum_samples = 30\nimage_size = 32\n'
    spec = spec.replace(first, f'{first}{second}\n{first}weight = 3\nobjectives = ["mlm", "itm"]\n')
    validate = '[[data.validate]]\ntype = "shapes"\n'
    spec = spec.replace(validate, f'{validate}objectives = ["mlm", "itm"]\n')
    more = f'{validate}objectives = ["sentence-length"]\nnum_samples = 10\nimage_size = 32\n'
    objective = '\n[[objectives]]\ntype = "sentence-length"\n'
    return spec.replace("[[objectives]]", f"{more}\n[[objectives]]", 1) + objective


def write_routed(folder: Path, spec: str = TINY) -> Path:
    path = write_spec(folder, routed(spec))
    (folder / "length.py").write_text(SENTENCE_LENGTH)
    return path


@pytest.mark.parametrize("weights", [[1, 1], [0.7, 0.2, 0.1], [5, 3, 1, 7]])
def test_datasets_take_turns_by_weight(weights: list[float]) -> None:
    lengths = [7, 20, 11, 5][: len(weights)]
    stream = SampleStream(lengths, weights, seed=3)
    total = sum(weights)
    drawn = [stream.at(position) for position in range(600)]
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    sources = [next(i for i, end in enumerate(ends) if index < end) for _, index in drawn]
    for count in (1, 10, 37, 600):
        counts = Counter(sources[:count])
        for dataset, weight in enumerate(weights):
            # A turn late or early at each of the divisions before it.
            assert abs(counts[dataset] - count * weight / total) < len(weights)
    # Each dataset has its own whole epochs.
    for dataset, length in enumerate(lengths):
        indices = [drawn[i] for i, source in enumerate(sources) if source == dataset]
        for epoch in range(len(indices) // length):
            part = indices[epoch * length : (epoch + 1) * length]
            assert {e for e, _ in part} == {epoch}
            assert len({index for _, index in part}) == length
    # What a window of consecutive positions holds at least, over all windows there are.
    for window in (4, 16):
        windows = [Counter(sources[i : i + window]) for i in range(600 - window)]
        least = stream.min_share(window)
        assert all(min(c[d] for c in windows) >= least[d] for d in range(len(weights)))


def test_weights_alone_mix_datasets_for_all_objectives(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    second = "data.train=[{type='shapes',num_samples=40,weight=3},{type='shapes',weight=1}]"
    setup = build(load_spec([str(spec), second], load_plugins()), 1, True)
    sources = [setup.stream().at(position)[1] >= 40 for position in range(16)]
    assert sum(sources) == 4
    batch = setup.train[[setup.stream().at(position) for position in range(8)]]
    assert batch.objectives["itm"].num_targets == 8


def test_samples_go_to_their_objectives_alone(tmp_path: Path) -> None:
    plugins = load_plugins()
    setup = build(load_spec([str(write_routed(tmp_path))], plugins), 1, True)
    batch = setup.train[[setup.stream().at(position) for position in range(8)]]
    assert batch.objectives["sentence-length"].num_targets == 2
    assert batch.objectives["itm"].num_targets == 6
    # The first 30 samples are the text-only dataset's; its images are not even read.
    text_only = int((batch.indices < 30).sum())
    assert text_only == 2
    assert batch.pixel_values is not None
    for index in range(30, 80):
        others = {
            setup.train.datasets.random_index(index, keyed_generator(0, 0, i, ""))
            for i in range(20)
        }
        assert min(others) >= 30


@pytest.mark.parametrize("text", [TINY, one_tower_spec()], ids=["two-tower", "one-tower"])
def test_several_tasks_train_alike_on_any_number_of_ranks(tmp_path: Path, text: str) -> None:
    spec = write_routed(tmp_path, text)
    common = ["optimizer.type=sgd", "optimizer.learning_rate=0.05", "train.micro_batch_size=4"]
    dropout = ["model.encoder.config.hidden_dropout_prob=0.0"] if "one-tower" in text else []
    assert run_here(spec, tmp_path / "one", *common, *dropout) == 0
    result = torchrun(2, str(spec), f"run.output_dir={tmp_path / 'two'}", *common, *dropout)
    assert result.returncode == 0, result.stderr
    assert_same_figures(tmp_path / "one/tiny", tmp_path / "two/tiny", 1e-5)
    assert_same_weights(tmp_path / "one/tiny", tmp_path / "two/tiny", 10, 1e-5)
    last = metrics(tmp_path / "one/tiny")[-1]
    assert {"sentence-length/loss", "mlm/loss", "itm/accuracy"} <= last.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.train.1.weight=0.1"], "less than one sample in a micro-batch of 8"),
        (
            ["data.train.0.objectives=['mln']"],
            "'mln' is not an objective of this run; it has mlm, itm",
        ),
        (
            ["data.train.0.objectives=['mlm']"],
            "no dataset is for objective 'sentence-length'; add it to the objectives of a dataset",
        ),
        (["data.validate.0.weight=1.0"], "evaluation takes every sample once; remove this key"),
    ],
)
def test_what_cannot_be_mixed_is_said(tmp_path: Path, settings: list[str], message: str) -> None:
    spec = write_routed(tmp_path)
    plugins = load_plugins()
    with pytest.raises((SpecError, DataError)) as caught:
        build(load_spec([str(spec), *settings], plugins), 1, True)
    assert message in str(caught.value)


def test_all_or_none_of_the_datasets_have_weights(tmp_path: Path) -> None:
    second = "data.train=[{type='shapes',weight=3},{type='shapes'}]"
    with pytest.raises(SpecError, match=r"data\.train\[1\]\.weight: missing; other datasets"):
        load_spec([str(write_spec(tmp_path)), second], load_plugins())


def test_weights_may_not_change_when_a_run_is_resumed(tmp_path: Path) -> None:
    spec = write_routed(tmp_path)
    assert run_here(spec, tmp_path, "train.max_steps=2") == 0
    with pytest.raises(
        CheckpointError, match=r"weights = \[1\.0, 3\.0\], now it is \[1\.0, 2\.0\]"
    ):
        run_here(spec, tmp_path, "train.max_steps=4", "data.train.1.weight=2.0")

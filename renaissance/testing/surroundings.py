"""The surroundings of an objective under check."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from renaissance.contracts.head import Head
from renaissance.contracts.objective import (
    Objective,
    ObjectiveContext,
    ObjectiveOutput,
    PanelEntry,
)
from renaissance.data.concatenation import Concatenation
from renaissance.data.micro_batch import MicroBatch
from renaissance.data.tokenizer import readable
from renaissance.engine.multi_objective import MultiObjective
from renaissance.engine.training_data import TrainingAnswers
from renaissance.plugins.loading import load_plugins
from renaissance.testing.contract_check import ViolationError
from renaissance.testing.samples import SampleList, collate, tokenizer_of
from renaissance.testing.tiny_model import tiny_model

# The objective's name in micro-batches.
NAME = "objective"


class Surroundings:
    """What an objective runs in: samples, a tokenizer, a tiny frozen model, heads."""

    def __init__(
        self, component: type[Objective], options: object, dataset: SampleList, root: Path
    ) -> None:
        self.component = component
        self.options = options
        self.dataset = dataset
        self.root = root
        self.tokenizer = tokenizer_of(dataset)
        self.model = tiny_model(len(self.tokenizer)).eval().requires_grad_(False)
        self.plugins = load_plugins()
        self.indices = list(range(len(dataset)))

    def make(self) -> Objective:
        """Make the objective in evaluation mode, with its default head."""
        datasets = Concatenation([("samples", self.dataset)])
        data = TrainingAnswers(lambda: datasets).of(NAME)
        context = ObjectiveContext(
            self.model.sizes,
            self.tokenizer,
            self._make_head,
            self.root,
            data,
            self.model.text_summary,
            self.model.image_summary,
        )
        make: Callable[..., Objective] = self.component
        return make(self.options, context).eval()

    def _make_head(self, input_size: int, output_size: int) -> Head:
        name = self.component.default_head
        if name is None:
            raise ViolationError("it calls make_head, but default_head is None; name a head there")
        head: Any = self.plugins.require("head", name).component
        made: Head = head(head.Options(), input_size, output_size)
        return made

    def batch(
        self, objective: Objective, indices: Sequence[int] | None = None, training: bool = False
    ) -> MicroBatch:
        """Collate some samples, or all."""
        chosen = self.indices if indices is None else indices
        return collate(self.dataset, self.tokenizer, {NAME: objective}, chosen, training)

    def run(self, objective: Objective, batch: MicroBatch) -> ObjectiveOutput:
        """Run the model and the objective as the engine would."""
        network = MultiObjective(
            self.model, nn.ModuleDict({NAME: objective}), (0.5,) * 3, (0.5,) * 3
        )
        outputs: dict[str, ObjectiveOutput] = network(batch)
        return outputs[NAME]

    def panel(
        self, objective: Objective, batch: MicroBatch, output: ObjectiveOutput
    ) -> list[PanelEntry]:
        """Return the objective's panel entries, with the texts that the engine would pass."""
        texts = readable(self.tokenizer, batch.input_ids)
        return objective.panel(batch.objectives[NAME], output, texts)

    def loss(self, objective: Objective) -> list[Tensor]:
        """Return the loss, as `Subject.run` does."""
        return [self.run(objective, self.batch(objective)).loss_sum]

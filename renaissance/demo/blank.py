"""The control of the demo: the same model and samples, with every image blanked."""

from collections.abc import Mapping, Sequence

import attrs
import torch

from renaissance.data.collate import Collator, MicroBatch
from renaissance.engine.distributed import Ranks
from renaissance.engine.evaluate import evaluate
from renaissance.engine.run_parts import RunParts

GREY = 127


class BlankImages(Collator):
    """Makes micro-batches whose images are all the same grey."""

    @classmethod
    def of(cls, collator: Collator) -> "BlankImages":
        """Blank the images of another collator."""
        blank = cls.__new__(cls)
        blank.__dict__.update(collator.__dict__)
        return blank

    def __getitem__(self, request: Sequence[tuple[int, int]]) -> MicroBatch:
        """Collate, then blank."""
        batch = super().__getitem__(request)
        if batch.pixel_values is None:
            return batch
        return attrs.evolve(batch, pixel_values=torch.full_like(batch.pixel_values, GREY))


@attrs.frozen
class Scores:
    """Shares of right answers."""

    words: dict[str, float]
    matching: float


def score(
    parts: RunParts, collator: Collator, ranks: Ranks, groups: Mapping[str, Sequence[str]]
) -> Scores:
    """Return the share of right answers for masked words of each group, and for matching."""
    matching = evaluate(parts.network, collator, parts.spec, ranks).metrics["itm/accuracy"]
    words = {name: _word_accuracy(parts, collator, words) for name, words in groups.items()}
    return Scores(words, matching)


def _word_accuracy(parts: RunParts, collator: Collator, words: Sequence[str]) -> float:
    ids = torch.tensor(parts.tokenizer.convert_tokens_to_ids(list(words)))
    right = total = 0
    parts.network.eval()
    step = parts.spec.evaluate.micro_batch_size
    for start in range(0, len(collator.datasets), step):
        stop = min(start + step, len(collator.datasets))
        batch = collator[[(0, index) for index in range(start, stop)]]
        with torch.no_grad():
            logits = parts.network(batch)["mlm"].predictions["logits"]
        labels = batch.objectives["mlm"].tensors["labels"]
        in_group = torch.isin(labels, ids)
        right += int((logits.argmax(-1) == labels)[in_group].sum())
        total += int(in_group.sum())
    return right / total

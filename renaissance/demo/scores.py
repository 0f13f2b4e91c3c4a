"""What the demo measures: how often masked words and matches are told right."""

from collections import Counter
from collections.abc import Mapping, Sequence

import attrs
import torch

from renaissance.data.collate import Collator
from renaissance.engine.run_parts import RunParts


@attrs.frozen
class Score:
    """How often a model is right about one kind of question.

    Attributes:
        num_right: Right answers.
        answers: How often each answer is the right one.
    """

    num_right: int
    answers: Counter[int]

    @property
    def share(self) -> float:
        """The share of right answers."""
        return self.num_right / self.answers.total()

    @property
    def prior(self) -> float:
        """The share that is right if the commonest answer is always given."""
        return self.answers.most_common(1)[0][1] / self.answers.total()


def score(
    parts: RunParts, collator: Collator, groups: Mapping[str, Sequence[str]], matching: str
) -> dict[str, Score]:
    """Return the scores of the masked words of each group, and of matching.

    Args:
        parts: The run, with the parameters to measure.
        collator: The samples.
        groups: Words, by the name of their group.
        matching: Name for the score of matching.
    """
    ids = {
        name: torch.tensor(parts.tokenizer.convert_tokens_to_ids(list(words)))
        for name, words in groups.items()
    }
    right: Counter[str] = Counter()
    answers: dict[str, Counter[int]] = {name: Counter() for name in (*groups, matching)}
    parts.network.eval()
    step = parts.spec.evaluate.micro_batch_size
    for start in range(0, len(collator.datasets), step):
        stop = min(start + step, len(collator.datasets))
        batch = collator[[(0, index) for index in range(start, stop)]]
        with torch.no_grad():
            outputs = parts.network(batch)
        for objective in ("mlm", "itm"):
            guesses = outputs[objective].predictions["logits"].argmax(-1)
            labels = batch.objectives[objective].tensors["labels"]
            for name in groups if objective == "mlm" else (matching,):
                asked = torch.isin(labels, ids[name]) if objective == "mlm" else labels >= 0
                right[name] += int((guesses == labels)[asked].sum())
                answers[name].update(labels[asked].tolist())
    return {name: Score(right[name], counts) for name, counts in answers.items()}

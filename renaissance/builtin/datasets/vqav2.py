"""VQA v2: questions about images."""

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import numpy as np

from renaissance import DataError, DatasetContext, Sample, option
from renaissance.arrow import ImageRows, is_texts, whole_number, written_text
from renaissance.builtin.formats import VQAV2

Split = Literal["train", "validate", "test", "test-dev", "trainable-val", "rest-val"]
FILES: dict[Split, str] = {
    "train": VQAV2.file("train"),
    "validate": VQAV2.file("val"),
    "test": VQAV2.file("test"),
    "test-dev": VQAV2.file("test-dev"),
    "trainable-val": VQAV2.file("trainable_val"),
    "rest-val": VQAV2.file("rest_val"),
}
ANSWERS = ("answers", "answer_labels", "answer_scores")


class VQAv2(ImageRows):
    """VQA v2 (Goyal et al., 2017): one sample per question.

    Labels: `question_id`; and, except in the splits `test` and `test-dev`, whose answers are not
    public, `answers` (of ten people's answers, those that are classes), `answer_labels` (their
    classes) and `answer_scores` (their soft scores).
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `vqav2`."""

        split: Split | None = option(
            None,
            help="Split; by default train for training and validate for validation. To train on "
            "most of the validation images too, add a [[data.train]] with trainable-val, and "
            "validate on rest-val.",
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        split = options.split or ("train" if context.training else "validate")
        self._has_answers = split not in ("test", "test-dev")
        labels = ("question_id", *(ANSWERS if self._has_answers else ()))
        self.provides = frozenset({"text", "image", *labels})
        super().__init__(
            (options, context),
            [context.root / FILES[split]],
            "questions",
            columns=labels,
            optional_columns=("image_id",),
        )
        self._table.check_type("questions", is_texts, "lists of strings")

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one question.

        Raises:
            DataError: If the record cannot be read.
            IndexError: If the sample does not exist.
        """
        row, position = self._texts.locate(index)
        source = f"{self._table.source(row)}, question {position}"
        question_id = self._item("question_id", row, position, source)
        labels = {"question_id": whole_number(question_id, "question_id", source)}
        return Sample(
            text=written_text(self._item("questions", row, position, source), source),
            images=(self._image(row, source),),
            image_ids=(self._image_id(row),),
            labels={**labels, **self._answers(row, position, source)},
            source=source,
        )

    def _answers(self, row: int, position: int, source: str) -> Mapping[str, Any]:
        if not self._has_answers:
            return {}
        answers, labels, scores = (self._item(column, row, position, source) for column in ANSWERS)
        if not len(answers) == len(labels) == len(scores):
            raise DataError(
                f"{source}: {len(answers)} answers, {len(labels)} answer_labels and {len(scores)} "
                "answer_scores; expected the same number of each. Prepare the data again"
            )
        return {
            "answers": answers,
            "answer_labels": [whole_number(label, "answer_labels", source) for label in labels],
            "answer_scores": scores,
        }

"""NLVR2: is a sentence true of two images?"""

from typing import Literal

import attrs
import numpy as np

from renaissance import DataError, DatasetContext, Sample, option
from renaissance.arrow import ImageRows, is_texts, written_text

Split = Literal[
    "train",
    "validate",
    "test",
    "balanced-validate",
    "balanced-test",
    "unbalanced-validate",
    "unbalanced-test",
]
FILES: dict[Split, str] = {
    "train": "nlvr2_train.arrow",
    "validate": "nlvr2_dev.arrow",
    "test": "nlvr2_test1.arrow",
    "balanced-validate": "nlvr2_balanced_dev.arrow",
    "balanced-test": "nlvr2_balanced_test1.arrow",
    "unbalanced-validate": "nlvr2_unbalanced_dev.arrow",
    "unbalanced-test": "nlvr2_unbalanced_test1.arrow",
}
IMAGES = ("image_0", "image_1")
ANSWERS = {"False": 0, "True": 1}


class NLVR2Data(ImageRows):
    """NLVR2 (Suhr et al., 2019): a sample a sentence, with two images.

    Labels: `answer`, 1 where the sentence is true; and `identifier`, the official one, such as
    dev-850-0-1. Files without a column `identifiers` do not have it: there it is the pair's with
    the position of the sentence, dev-850-0#1, which is no official identifier.
    """

    provides = frozenset({"text", "image", "answer", "identifier"})

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `nlvr2`."""

        split: Split | None = option(
            None,
            help="Split; train for training and validate (dev) for validation where absent; test "
            "is test1, the public test set.",
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        split = options.split or ("train" if context.training else "validate")
        super().__init__(
            (options, context),
            [context.root / FILES[split]],
            "questions",
            images=IMAGES,
            columns=("answers", "identifier"),
            optional_columns=("identifiers",),
        )
        self._table.check_type("questions", is_texts, "lists of strings")

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one sentence.

        Raises:
            DataError: If the record cannot be read.
            IndexError: If there is no such sample.
        """
        row, position = self._texts.locate(index)
        source = f"{self._table.source(row)}, sentence {position}"
        answer = str(self._item("answers", row, position, source))
        if answer not in ANSWERS:
            raise DataError(
                f"{source}: column 'answers' holds {answer!r}; expected True or False. "
                "Prepare the data again, or let the run skip it with data.max_bad_samples"
            )
        return Sample(
            text=written_text(self._item("questions", row, position, source), source),
            images=tuple(self._image(row, source, column) for column in IMAGES),
            image_ids=tuple((self._namespace, row, column) for column in IMAGES),
            labels={
                "answer": ANSWERS[answer],
                "identifier": self._identifier(row, position, source),
            },
            source=source,
        )

    def _identifier(self, row: int, position: int, source: str) -> str:
        if self._table.value("identifiers", row) is not None:
            return str(self._item("identifiers", row, position, source))
        return f"{self._table.value('identifier', row).as_py()}#{position}"

"""NLVR2: is a sentence true of two images?"""

from typing import Literal

import attrs
import numpy as np

from renaissance import DataError, DatasetContext, Sample, option, quoted
from renaissance.arrow import ImageRows, is_texts, written_text
from renaissance.builtin.formats import NLVR2, NLVR2_ANSWERS

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
    "train": NLVR2.file("train"),
    "validate": NLVR2.file("dev"),
    "test": NLVR2.file("test1"),
    "balanced-validate": NLVR2.file("balanced_dev"),
    "balanced-test": NLVR2.file("balanced_test1"),
    "unbalanced-validate": NLVR2.file("unbalanced_dev"),
    "unbalanced-test": NLVR2.file("unbalanced_test1"),
}
IMAGES = ("image_0", "image_1")


class NLVR2Data(ImageRows):
    """NLVR2 (Suhr et al., 2019): one sample per sentence, with two images.

    Labels: `answer`, 1 if the sentence is true; and `identifier`, the official one, such as
    dev-850-0-1. In files without a column `identifiers`, it is the identifier of the pair of images
    and the position of the sentence instead, such as dev-850-0#1, which is not official.
    """

    provides = frozenset({"text", "image", "answer", "identifier"})

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `nlvr2`."""

        split: Split | None = option(
            None,
            help="Split; by default train for training and validate (dev) for validation. test is "
            "test1, the public test set.",
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
            IndexError: If the sample does not exist.
        """
        row, position = self._texts.locate(index)
        source = f"{self._table.source(row)}, sentence {position}"
        answer = str(self._item("answers", row, position, source))
        if answer not in NLVR2_ANSWERS:
            raise DataError(
                f"{source}: column 'answers' holds {quoted(answer)}; expected True or False. "
                "Prepare the data again, or let the run skip it with data.max_bad_samples"
            )
        return Sample(
            text=written_text(self._item("questions", row, position, source), source),
            images=tuple(self._image(row, source, column) for column in IMAGES),
            image_ids=tuple((self._namespace, row, column) for column in IMAGES),
            labels={
                "answer": NLVR2_ANSWERS.index(answer),
                "identifier": self._identifier(row, position, source),
            },
            source=source,
        )

    def _identifier(self, row: int, position: int, source: str) -> str:
        if self._table.value("identifiers", row) is not None:
            return str(self._item("identifiers", row, position, source))
        return f"{self._table.value('identifier', row).as_py()}#{position}"

"""SNLI-VE: does an image entail a sentence?"""

from typing import Literal

import attrs
import numpy as np

from renaissance import DataError, DatasetContext, Sample, option, quoted
from renaissance.arrow import ImageRows, whole_number, written_text
from renaissance.builtin.formats import SNLI_VE, SNLI_VE_CLASSES

Split = Literal["train", "validate", "test"]
FILES: dict[Split, str] = {
    "train": SNLI_VE.file("train"),
    "validate": SNLI_VE.file("dev"),
    "test": SNLI_VE.file("test"),
}


class SNLIVEData(ImageRows):
    """SNLI-VE (Xie et al., 2019): one sample per hypothesis about an image.

    The premise, a caption of the image, is not part of the sample. Labels:
    `entailment`, which is 0 for contradiction, 1 for neutral and 2 for entailment; and
    `identifier`, row and position in the file, such as 12:0.
    """

    provides = frozenset({"text", "image", "entailment", "identifier"})

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of `snli-ve`."""

        split: Split | None = option(
            None, help="Split; by default train for training and validate (dev) for validation."
        )

    def __init__(self, options: Options, context: DatasetContext) -> None:
        split = options.split or ("train" if context.training else "validate")
        path = context.root / FILES[split]
        super().__init__((options, context), [path], "sentences", columns=("labels",))

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """Return one hypothesis.

        Raises:
            DataError: If the record cannot be read.
            IndexError: If the sample does not exist.
        """
        row, position = self._texts.locate(index)
        source = f"{self._table.source(row)}, sentence {position}"
        pair = self._item("sentences", row, position, source)
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                f"{source}: column 'sentences' holds {quoted(pair)}; expected a premise and a "
                "hypothesis. Prepare the data again"
            )
        label = self._item("labels", row, position, source)
        return Sample(
            text=written_text(pair[1], source),
            images=(self._image(row, source),),
            image_ids=(self._image_id(row),),
            labels={
                "entailment": whole_number(label, "labels", source, len(SNLI_VE_CLASSES)),
                "identifier": f"{row}:{position}",
            },
            source=source,
        )

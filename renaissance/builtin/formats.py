"""The tables of the built-in datasets, which sources write and datasets read."""

from typing import Any

import attrs
import pyarrow as pa

from renaissance.prepare import CAPTION_SCHEMA


@attrs.frozen
class Format:
    """The tables of one dataset.

    Attributes:
        name: Prefix of the names of its tables.
        schema: The pyarrow schema of all its tables.
    """

    name: str
    schema: Any

    def table(self, split: str | None = None) -> str:
        """Return the name of a split's table, or of the only table."""
        return self.name if split is None else f"{self.name}_{split}"

    def file(self, split: str | None = None) -> str:
        """Return the file name of a table."""
        return f"{self.table(split)}.arrow"

    def series(self, split: str | None = None) -> str:
        """Return the file names of a table in several files, with `{}` for the index."""
        return f"{self.table(split)}_{{}}.arrow"


def karpathy_format(dataset: str) -> Format:
    """Return the format of a dataset in the splits of Karpathy and Fei-Fei (2015)."""
    return Format(f"{dataset}_caption_karpathy", CAPTION_SCHEMA)


COCO = karpathy_format("coco")
F30K = karpathy_format("f30k")
COCO_OFFICIAL = Format("coco_caption", CAPTION_SCHEMA)
SBU = Format("sbu", CAPTION_SCHEMA)
GCC = Format("conceptual_caption", CAPTION_SCHEMA)

VG = Format(
    "vg",
    pa.schema(
        [
            ("image", pa.binary()),
            ("caption", pa.list_(pa.string())),
            # The region of each phrase, pixels.
            ("width", pa.list_(pa.int64())),
            ("height", pa.list_(pa.int64())),
            ("x", pa.list_(pa.int64())),
            ("y", pa.list_(pa.int64())),
            ("image_id", pa.string()),
        ]
    ),
)

VQAV2 = Format(
    "vqav2",
    pa.schema(
        [
            ("image", pa.binary()),
            ("questions", pa.list_(pa.string())),
            # For each question, the answers that are classes: their texts, labels and scores.
            ("answers", pa.list_(pa.list_(pa.string()))),
            ("answer_labels", pa.list_(pa.list_(pa.int64()))),
            ("answer_scores", pa.list_(pa.list_(pa.float64()))),
            ("image_id", pa.int64()),
            ("question_id", pa.list_(pa.int64())),
            ("split", pa.string()),
        ]
    ),
)
# A JSON list of the classes, by label.
VQAV2_ANSWERS_FILE = "vqav2_answers.json"

NLVR2 = Format(
    "nlvr2",
    pa.schema(
        [
            ("image_0", pa.binary()),
            ("image_1", pa.binary()),
            ("questions", pa.list_(pa.string())),
            ("answers", pa.list_(pa.string())),
            ("identifier", pa.string()),
            # Official identifier of each sentence. Its number is not the position in the row:
            # sentences may be missing.
            ("identifiers", pa.list_(pa.string())),
        ]
    ),
)
# By label, spelled as in the files.
NLVR2_ANSWERS = ("False", "True")

SNLI_VE = Format(
    "snli",
    pa.schema(
        [
            ("image", pa.binary()),
            # Premise (a caption of the image) and hypothesis.
            ("sentences", pa.list_(pa.list_(pa.string()))),
            ("labels", pa.list_(pa.int64())),
        ]
    ),
)
# By label.
SNLI_VE_CLASSES = ("contradiction", "neutral", "entailment")

REFERRING_EXPRESSIONS_SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("sentences", pa.list_(pa.string())),
        # (x, y, width, height) of each annotated object of the image, pixels.
        ("bboxes", pa.list_(pa.list_(pa.float64()))),
        # Index of the object that the sentences refer to.
        ("labels", pa.int64()),
    ]
)
# The second part of a name says who made the splits: UNC or UMD.
REFCOCO = Format("refcoco_unc", REFERRING_EXPRESSIONS_SCHEMA)
REFCOCO_PLUS = Format("refcoco+_unc", REFERRING_EXPRESSIONS_SCHEMA)
REFCOCOG = Format("refcocog_umd", REFERRING_EXPRESSIONS_SCHEMA)

"""The files, columns and classes of each task."""

from typing import Literal

import attrs

TaskName = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli"]
NO_YES = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")


@attrs.frozen
class Task:
    """One task.

    Attributes:
        folder: Folder of its files in GLUE's own download.
        text: Column of the first or only sentence.
        text_pair: Column of the second sentence; None if there is only one.
        label: Column of the label.
        classes: Names of the classes as in the files, in the order of their indices.
    """

    folder: str
    text: str
    text_pair: str | None
    label: str
    classes: tuple[str, ...]


TASKS: dict[TaskName, Task] = {
    "cola": Task("CoLA", "sentence", None, "label", NO_YES),
    "sst2": Task("SST-2", "sentence", None, "label", NO_YES),
    "mrpc": Task("MRPC", "#1 String", "#2 String", "Quality", NO_YES),
    "qqp": Task("QQP", "question1", "question2", "is_duplicate", NO_YES),
    "mnli": Task(
        "MNLI",
        "sentence1",
        "sentence2",
        "gold_label",
        ("entailment", "neutral", "contradiction"),
    ),
    "qnli": Task("QNLI", "question", "sentence", "label", ENTAILMENT),
    "rte": Task("RTE", "sentence1", "sentence2", "label", ENTAILMENT),
    "wnli": Task("WNLI", "sentence1", "sentence2", "label", NO_YES),
}
# CoLA's training and development files have no header.
COLA_COLUMNS = ("source", "label", "author's mark", "sentence")

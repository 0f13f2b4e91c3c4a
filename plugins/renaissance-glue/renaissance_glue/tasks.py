"""What is where in each task's files, and what its answers are called."""

from typing import Literal

import attrs

TaskName = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli"]
NO_YES = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")


@attrs.frozen
class Task:
    """One task.

    Attributes:
        folder: The folder of its files, as GLUE's own download names it.
        text: Column of the sentence, or of the first one.
        text_pair: Column of the second sentence; None for a task of one.
        label: Column of the label.
        classes: The labels as they are written, in the order of the classes.
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
# CoLA's training and development files do not say what their columns are.
COLA_COLUMNS = ("source", "label", "author's mark", "sentence")

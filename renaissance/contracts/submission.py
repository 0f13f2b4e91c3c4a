"""A file of predictions, as a benchmark takes it."""

from collections.abc import Sequence

import attrs


@attrs.frozen
class Answer:
    """One entry of a file of predictions.

    Attributes:
        where: Its position in the file, for messages, such as "line 3".
        identifier: The question that it answers; None if it names none.
        fault: What is wrong with it, or None.
    """

    where: str
    identifier: int | str | None = None
    fault: str | None = None


@attrs.frozen
class Submission:
    """A file of predictions, and the questions that it must answer.

    Attributes:
        questions: The identifier of each question.
        answers: The entries of the file.
    """

    questions: Sequence[int | str]
    answers: Sequence[Answer]

"""`renaissance data validate-submission`: compare predictions with the questions to answer."""

from pathlib import Path

import attrs

from renaissance.contracts.objective import Objective, overrides
from renaissance.contracts.submission import Submission
from renaissance.errors import DataError, PluginError, did_you_mean, quoted
from renaissance.plugins.loading import Plugins

NUM_SHOWN = 10


@attrs.frozen
class Report:
    """What is wrong with a file of predictions.

    Attributes:
        num_questions: Number of questions to answer.
        num_predictions: Number of entries in the file.
        malformed: Entries of the wrong form, each with what is wrong.
        unknown: Entries whose identifier is not that of a question.
        twice: Entries that answer a question a second time.
        missing: Questions without an answer.
    """

    num_questions: int
    num_predictions: int
    malformed: list[str]
    unknown: list[str]
    twice: list[str]
    missing: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of faults of each sort."""
        return {
            "malformed": len(self.malformed),
            "unknown": len(self.unknown),
            "twice": len(self.twice),
            "missing": len(self.missing),
        }

    def raise_faults(self, path: Path) -> None:
        """Raise the first faults of each sort.

        Raises:
            DataError: If there are any faults.
        """
        count = sum(self.counts.values())
        if count == 0:
            return
        lines = []
        for faults in (self.malformed, self.unknown, self.twice, self.missing):
            lines += faults[:NUM_SHOWN]
            if len(faults) > NUM_SHOWN:
                lines.append(f"and {len(faults) - NUM_SHOWN:,} more like the last")
        raise DataError(
            "\n".join(
                [
                    *(f"{path}: {line}" for line in lines),
                    f"faults: {count:,}; name the questions that the file was predicted for, or "
                    "write it again with 'renaissance evaluate --predictions' on that split",
                ]
            )
        )


def check_submission(path: Path, name: str, questions: Path, plugins: Plugins) -> Report:
    """Check that a file answers every question once, in the objective's form.

    Args:
        path: The predictions, as `renaissance evaluate --predictions` wrote them.
        name: Registered name of the objective.
        questions: The questions, as its `check_predictions` reads them.
        plugins: The installed plugins.

    Raises:
        DataError: If a file cannot be read, or is not of the expected form as a whole.
        PluginError: If the objective is unknown, or does not check predictions.
    """
    submission = _checking(plugins, name).check_predictions(path, questions)
    if not submission.questions:
        raise DataError(f"{questions}: no questions; expected those of {name}. Name their file")
    return _compare(submission)


def _checking(plugins: Plugins, name: str) -> type[Objective]:
    checking: dict[str, type[Objective]] = {
        registration.name: registration.component
        for registration in plugins.registry
        if issubclass(registration.component, Objective)
        and overrides(registration.component, "check_predictions")
    }
    if name not in checking:
        raise PluginError(
            f"--objective: {name!r} does not check predictions; those that do: "
            f"{', '.join(map(repr, checking))}{did_you_mean(name, checking)}"
        )
    return checking[name]


def _compare(submission: Submission) -> Report:
    is_answered = dict.fromkeys(submission.questions, False)
    report = Report(len(is_answered), len(submission.answers), [], [], [], [])
    for answer in submission.answers:
        if answer.fault is not None:
            report.malformed.append(f"{answer.where}: {answer.fault}")
        if answer.identifier is None:
            continue
        identifier = quoted(answer.identifier)
        if answer.identifier not in is_answered:
            report.unknown.append(f"{answer.where}: {identifier} is not a question")
        elif is_answered[answer.identifier]:
            report.twice.append(
                f"{answer.where}: {quoted(answer.identifier)} is answered a second time"
            )
        else:
            is_answered[answer.identifier] = True
    report.missing.extend(
        f"no answer to {quoted(i)}" for i, done in is_answered.items() if not done
    )
    return report

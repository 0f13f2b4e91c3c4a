"""The pool: order, failures, and that nothing waits for ever."""

from collections.abc import Sequence
from pathlib import Path

import attrs

from renaissance.study.pool import Pool

# Commands that take no time, of which the second fails.
WORKS, FAILS = ["recipes", "show", "shapes"], ["recipes", "show", "nothing"]


@attrs.define
class Listed:
    """A job with a list of commands."""

    name: str
    log: Path
    commands: list[Sequence[str]]
    after: str | None = None
    codes: list[int] = attrs.field(factory=list)

    def next_command(self) -> Sequence[str] | None:
        return self.commands.pop(0) if self.commands else None

    def ended(self, command: Sequence[str], code: int) -> None:
        self.codes.append(code)


def test_one_that_fails_stops_only_those_that_start_from_it(tmp_path: Path) -> None:
    jobs = [
        Listed("bad", tmp_path / "bad.log", [FAILS, WORKS]),
        Listed("good", tmp_path / "good.log", [WORKS, WORKS]),
        Listed("after-bad", tmp_path / "after-bad.log", [WORKS], after="bad"),
        Listed("after-good", tmp_path / "after-good.log", [WORKS], after="good"),
    ]
    lines: list[str] = []
    pool = Pool([None, None], lines.append)
    assert pool.run(jobs) == 1
    assert [job.codes for job in jobs] == [[2], [0, 0], [], [0]]
    assert pool.failed == {
        "bad": f"recipes ended with 2; see {tmp_path}/bad.log",
        "after-bad": "bad, which it starts from, failed",
    }
    assert "no such recipe" in (tmp_path / "bad.log").read_text()
    assert lines.index("after-good: recipes") > lines.index("good: recipes")


def test_a_job_with_nothing_left_to_do_is_done(tmp_path: Path) -> None:
    done = Listed("done", tmp_path / "a.log", [])
    after = Listed("after", tmp_path / "b.log", [WORKS], after="done")
    assert Pool([None], lambda line: None).run([done, after]) == 0
    assert after.codes == [0]

"""The monitor."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from renaissance import Evaluation, Monitor, RunInfo, SpecError, StepReport, draw_panel, option
from renaissance_wandb.history import last_local_row, run_id

if TYPE_CHECKING:
    import wandb

# wandb is imported where a run uses it: it takes a second, which `renaissance --help` does without.


class WandB(Monitor):
    """Sends a run to Weights & Biases: its figures, spec and pictures."""

    @attrs.frozen
    class Options:
        """What can be set in the run spec."""

        project: str = option("renaissance", help="Project that the run belongs to.")
        entity: str | None = option(
            None, help="User or team that owns the project; the account's default where absent."
        )
        panel: bool = option(True, help="Send the picture panel of each evaluation.")
        log_checkpoints: bool = option(
            False,
            help="Upload the best checkpoint, or the last without validation, once the run is "
            "finished.",
        )

    def __init__(self, options: Options) -> None:
        self._options = options
        self._run: wandb.Run
        self._last_row = -1
        self._checkpoint: Path | None = None
        _check_login()

    def run_started(self, run: RunInfo) -> None:
        """Begin the run at the service, or resume it."""
        import wandb

        identifier = run_id(run.folder)
        written = last_local_row(run.folder, identifier) if _is_offline() else -1
        self._run = wandb.init(
            project=self._options.project,
            entity=self._options.entity,
            id=identifier,
            name=run.folder.name,
            dir=run.folder,
            config=dict(run.spec),
            # A resumed run may be longer than it was to be.
            allow_val_change=True,
            resume="allow",
            reinit="finish_previous",
        )
        self._last_row = max(written, self._run.starting_step - 1)
        # The service numbers rows in a way of its own; figures are drawn over training steps.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        if not self._run.disabled:
            spec = Path(self._run.dir) / "spec.toml"
            spec.write_text(run.spec_text)
            self._run.save(str(spec), base_path=self._run.dir, policy="now")

    def step_finished(self, run: RunInfo, report: StepReport) -> None:
        """Send a training step."""
        self._send("train", report.step, report.figures())

    def evaluated(self, run: RunInfo, evaluation: Evaluation) -> None:
        """Send an evaluation, with its pictures."""
        import wandb

        content: dict[str, Any] = dict(evaluation.figures())
        for name, picture in evaluation.pictures.items():
            content[f"{evaluation.split}/{name}"] = wandb.Image(picture)
        if self._options.panel and evaluation.panel:
            content[f"{evaluation.split}/panel"] = wandb.Image(draw_panel(evaluation.panel))
        self._send(evaluation.split, evaluation.step, content)

    def checkpoint_saved(self, run: RunInfo, step: int, folder: Path) -> None:
        """Note where the best checkpoint is."""
        self._checkpoint = run.best_checkpoint or folder
        self._run.summary["best_checkpoint"] = str(self._checkpoint)

    def run_finished(self, run: RunInfo, reason: str, summary: Mapping[str, Any]) -> None:
        """End the run, with the checkpoint if it is asked for."""
        self._run.summary["ended"] = reason
        if self._options.log_checkpoints and self._checkpoint and reason == "finished":
            self._upload(run, self._checkpoint)
        self._run.finish(exit_code=1 if reason == "failed" else 0)

    def _send(self, split: str, step: int, content: Mapping[str, Any]) -> None:
        # Row numbers must increase: an evaluation comes after the training figures of its step.
        row = 2 * step + (split != "train")
        if row > self._last_row:
            self._run.log({**content, "step": step}, step=row)

    def _upload(self, run: RunInfo, checkpoint: Path) -> None:
        import wandb

        name = re.sub(r"[^\w.-]", "_", run.folder.name)
        artifact = wandb.Artifact(f"{name}-checkpoint", type="model")
        artifact.add_dir(str(checkpoint))
        self._run.log_artifact(artifact, aliases=[checkpoint.name, "latest"])


def _check_login() -> None:
    """Check that figures can be sent, unless they are to stay here.

    Raises:
        SpecError: If there is no account to send them to, or the service does not answer.
    """
    import wandb

    if _is_offline():
        return
    remedy = (
        "run `wandb login`, set WANDB_MODE=offline to send the run later with `wandb sync`, or "
        "take 'wandb' out of [[monitors]]"
    )
    try:
        is_logged_in = wandb.login(prompt=False)
    except wandb.errors.AuthenticationError as error:
        raise SpecError(f"monitors: 'wandb': {error}; {remedy}") from error
    if not is_logged_in:
        raise SpecError(f"monitors: 'wandb': not logged in; {remedy}")


def _is_offline() -> bool:
    import wandb

    return wandb.setup().settings.mode != "online"

"""Where the numbers of a run go while it runs: nowhere, a CSV file, or Weights & Biases. The only home of wandb."""

from __future__ import annotations

import csv
import io
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TextIO

from njsl.core.types import ConfigError

_WAYS_OUT = "give logger.mode=offline, logger.mode=disabled or logger=csv"


class Logger(Protocol):
    """What every logger does.

    The constructor stores, and refuses what could not work; it writes nothing, since the run folder may yet be refused.

    Class attributes:
        supplied: constructor parameters that the run gives: ``output``, the run's folder, and ``config``, the resolved
            config. They cannot be given in a yaml.
    """

    supplied: ClassVar[tuple[str, ...]]

    def open(self, step: int | None = None) -> None:
        """Start: called once, when the run folder is claimed.

        Args:
            step: the run goes on after this step: what is there of later ones is dropped. None starts anew.

        Raises:
            ConfigError: the logger was asked for and cannot be used; the message names the ways out.
        """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Values of one step, by name; steps never go back."""

    def summary(self, metrics: Mapping[str, float | str]) -> None:
        """Values of the whole run, by name."""

    def image(self, name: str, path: Path) -> None:
        """A figure that lies in the run folder."""

    def close(self, failed: bool) -> None:
        """End: always called, also when never opened."""


class NullLogger:
    """Logs nothing."""

    supplied: ClassVar[tuple[str, ...]] = ()

    def open(self, step: int | None = None) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def summary(self, metrics: Mapping[str, float | str]) -> None:
        pass

    def image(self, name: str, path: Path) -> None:
        pass

    def close(self, failed: bool) -> None:
        pass


class CsvLogger:
    """``log.csv`` in the run folder: a row ``step,name,value`` per value; summary values have no step.

    A run that begins anew writes the file anew. Figures are not listed: they lie beside it.

    Args:
        output: the run's folder.
    """

    supplied: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(self, *, output: Path) -> None:
        self.path = Path(output) / "log.csv"
        self._file: TextIO | None = None

    def open(self, step: int | None = None) -> None:
        kept = [] if step is None else self._rows(step)
        with io.StringIO(newline="") as text:
            csv.writer(text, lineterminator="\n").writerows([("step", "name", "value"), *kept])
            beside = self.path.with_name(f".{self.path.name}.tmp")
            beside.write_text(text.getvalue(), encoding="utf-8", newline="")
        os.replace(beside, self.path)
        self._file = self.path.open("a", encoding="utf-8", newline="")

    def _rows(self, step: int) -> list[list[str]]:
        """The rows of steps up to ``step``; a line a kill has cut short is of a later one."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]
        return [row for row in rows if row[0].isdecimal() and int(row[0]) <= step]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write([(step, name, float(value)) for name, value in metrics.items()])

    def summary(self, metrics: Mapping[str, float | str]) -> None:
        self._write([("", name, value) for name, value in metrics.items()])

    def image(self, name: str, path: Path) -> None:
        pass

    def close(self, failed: bool) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        assert self._file is not None, "open() comes first"
        csv.writer(self._file, lineterminator="\n").writerows(rows)
        self._file.flush()  # whoever watches the run sees the row, and a kill loses nothing


class WandbLogger:
    """Weights & Biases. The key comes from ``WANDB_API_KEY`` or ``wandb login`` alone, never from the config.

    Args:
        output: the run's folder; wandb keeps its files in ``wandb/`` there.
        config: the run's resolved config.
        mode: ``online`` needs an account; ``offline`` writes files for ``wandb sync``; ``disabled`` does nothing.
        project, entity, group, name, tags: as wandb has them; null leaves the choice to wandb.
        init_timeout_sec: so long may the server take to answer at the start.

    Raises:
        ConfigError: ``online`` without a key.
    """

    supplied: ClassVar[tuple[str, ...]] = ("output", "config")

    def __init__(
        self,
        *,
        output: Path,
        config: Mapping[str, Any],
        mode: Literal["online", "offline", "disabled"] = "online",
        project: str = "njsl",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        init_timeout_sec: float = 60.0,
    ) -> None:
        self.output, self.config, self.mode = Path(output), config, mode
        self.project, self.entity, self.group, self.name, self.tags = project, entity, group, name, tags
        self.init_timeout_sec = init_timeout_sec
        self._run: Any = None
        if mode == "online" and not _has_key():
            raise ConfigError(f"logger.mode: online needs WANDB_API_KEY or `wandb login`, and has neither; {_WAYS_OUT}")

    def open(self, step: int | None = None) -> None:
        wandb = _silent_wandb()
        # run.json has the machine, the versions and the code's commit; wandb's own collectors would add the command
        # line, which may hold what must not leave the machine, and a thread that measures the computer.
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.init_timeout_sec,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        try:
            self._run = wandb.init(
                dir=str(self.output),
                mode=self.mode,
                project=self.project,
                entity=self.entity,
                group=self.group,
                name=self.name,
                tags=list(self.tags),
                id=self._id(step),
                resume=None if step is None else "allow",
                config=dict(self.config),
                settings=settings,
            )
        except (wandb.Error, OSError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"logger: wandb could not start: {reason}; {_WAYS_OUT}") from error

    def _id(self, step: int | None) -> str | None:
        """The run's name in wandb: that of the run that is continued, which lies beside its files."""
        file = self.output / "wandb" / "run_id.txt"
        if step is not None and file.exists():
            return file.read_text().strip()
        if self.mode == "disabled":
            return None
        fresh = secrets.token_hex(4)
        file.parent.mkdir(exist_ok=True)
        file.write_text(fresh + "\n")
        return fresh

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in metrics.items()}, step=step)

    def summary(self, metrics: Mapping[str, float | str]) -> None:
        self._run.summary.update(dict(metrics))

    def image(self, name: str, path: Path) -> None:
        import wandb

        # Not committed: a step of its own would put later steps in the past.
        self._run.log({name: wandb.Image(str(path))}, commit=False)

    def close(self, failed: bool) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.finish(exit_code=int(failed))
        except Exception as error:
            # The work is done and lies in the run folder: a server that went away is no reason to lose the run.
            warnings.warn(
                f"wandb did not finish ({type(error).__name__}: {error}); the outputs are complete", stacklevel=2
            )


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    # Without a prompt and without asking the server this only looks where `wandb login` leaves its keys.
    return bool(_silent_wandb().login(prompt=False, verify=False))


def _silent_wandb() -> Any:
    """The library, told not to say where a key came from."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    return wandb

"""What the demo is doing now, with elapsed time; finished steps stay on screen as lines."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Shows running steps with a spinner; without a terminal only the finished lines appear."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show `title` while the block runs, then how long it took or that it did not succeed."""
        if not self._progress.tasks and self._console.is_terminal:
            self._progress.start()
        task = self._progress.add_task(title, total=None)
        start = monotonic()
        mark, style = "✗", "red"
        try:
            yield
            mark, style = "✓", "green"
        finally:
            self._progress.remove_task(task)
            if not self._progress.tasks and self._console.is_terminal:
                self._progress.stop()
            self._console.print(
                f"[{style}]{mark}[/] {title} [dim]{monotonic() - start:.1f} s[/]", highlight=False
            )

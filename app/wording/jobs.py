"""What is said of jobs, and of the model that is open."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from app.wording.markup import verbatim
from app.wording.numbers import ago, memory, time_left

if TYPE_CHECKING:
    from app.job import Job
    from app.jobs import Closed, Opened


def progress(job: Job, ahead: int) -> str:
    """Say where a waiting or running job is: its phase, how much is done, and how long it still takes."""
    if job.fetching:
        if job.total <= 1:
            return "Fetching: asking the Hub"
        return _parted(f"Fetching {memory(job.done)} of {memory(job.total)}", left(job))
    if job.state == "queued":
        return f"Queued, {ahead} ahead"
    if job.cancelling:
        return f"Cancelling after this step ({job.phase})"
    count = f", {job.done} of {job.total}" if job.total > 1 else ""
    return _parted(f"{job.phase}{count}", f"{100 * job.share:.0f}\N{NO-BREAK SPACE}%", left(job))


def left(job: Job) -> str:
    """Say how long a job still takes; nothing while that is not known."""
    seconds = job.seconds_left
    return time_left(seconds, job.late)


def _parted(*parts: str) -> str:
    return " · ".join(filter(None, parts))


def closes(opened: Opened, owner: str) -> str:
    """Say what loading another model does to the one that is open."""
    who = "you" if opened.owner == owner else "another person"
    when = ago(time.monotonic() - opened.since)
    return f"This closes **{verbatim(opened.source.label)}**, which {who} opened {when}."


def was_closed(closed: Closed) -> str:
    """Say what another person's task did to a model that one used."""
    label, again = verbatim(closed.source.label), "Your next job on it opens it again."
    if closed.instead is None:
        return f"**{label}** is closed, since another person ended the process that held it. {again}"
    instead = verbatim(closed.instead.label)
    if closed.instead == closed.source.model_copy(
        update={"device": closed.instead.device, "dtype": closed.instead.dtype}
    ):
        instead = f"it as {closed.instead.dtype} on {closed.instead.device}"
    return f"**{label}** is closed, since another person opened **{instead}**. {again}"

"""The Hub: whether it can be reached, what it says about a model, and its refusals in words.

Whether it answers is asked once in a while instead of waited for at every file: the client libraries retry
for half a minute before they say that there is no network. Knows nothing about weights or data sets.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from analysis.errors import ModelError, one_line

_REMEMBERED = 30.0
"""Seconds for which an answer is believed."""
_last: dict[str, tuple[float, bool]] = {}

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
"""The files of a model's weights, as ``save_pretrained`` names them."""
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
FETCHING = "Fetching"
"""The phase of a job in which its model comes from the Hub; its units are bytes."""
ELSE = "or give a local folder, a GGUF file or 'demo'"


def hub_answers() -> bool:
    """Tell whether anything answers at the Hub's address: in ten seconds, or at once when just asked."""
    from huggingface_hub import constants, get_session

    endpoint = constants.ENDPOINT
    asked, answered = _last.get(endpoint, (float("-inf"), False))
    if time.monotonic() - asked > _REMEMBERED:
        try:
            get_session().head(endpoint, timeout=10)
            answered = True
        except Exception:  # whatever the transport, a proxy or the offline mode raises means the same here
            answered = False
        _last[endpoint] = (time.monotonic(), answered)
    return answered


class Listing(NamedTuple):
    """Facts about a model that the Hub, or the model's folder, tells."""

    bytes: int | None
    """Of its weights in safetensors; ``None`` when it has none or does not say."""
    base_model: str | None
    """The repository that it was quantised from, where its card says so."""


def look_up(repository: str, revision: str | None = None) -> Listing:
    """Ask the Hub about a model; a listing without anything in it when it does not answer."""
    from huggingface_hub import HfApi

    if not hub_answers():
        return Listing(None, None)
    try:
        info: Any = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=10)
    except Exception:  # what is wrong is told by whoever cannot do without an answer
        return Listing(None, None)
    sizes = [file.size for file in info.siblings or () if WEIGHTS.fullmatch(file.rfilename)]
    known = bool(sizes) and None not in sizes
    return Listing(sum(sizes) if known else None, _base_model(info.card_data))


def look_at(folder: Path) -> Listing:
    """Read the same facts about a model that lies in a folder."""
    from huggingface_hub import RepoCard

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        named = _base_model(RepoCard.load(folder / "README.md", ignore_metadata_errors=True).data)
    except Exception:  # there is no card, or it holds whatever people write
        named = None
    return Listing(size or None, named)


def _base_model(card: Any) -> str | None:
    """The one repository that a model card says the model was quantised from, or ``None``."""
    named = getattr(card, "base_model", None)
    relation = getattr(card, "base_model_relation", None)
    one = named[0] if isinstance(named, list) and len(named) == 1 else named
    if not isinstance(one, str) or not _REPOSITORY.fullmatch(one):
        return None
    return one if relation in (None, "quantized") else None


def fetch_error(repository: str, revision: str | None, error: BaseException) -> ModelError:
    """Say in one sentence why a model cannot be fetched and what to do, whatever the libraries raised."""
    from huggingface_hub import constants, errors, get_token

    causes = list(_causes(error))
    page = f"{constants.ENDPOINT}/{repository}"
    login = "log in with 'hf auth login' or set HF_TOKEN"

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    refused = [cause for cause in causes if isinstance(cause, errors.HfHubHTTPError)]
    status = refused[0].response.status_code if refused else None
    if met(errors.GatedRepoError):
        then = (
            "wait until that is granted if its owners decide, and use a token of the same account (HF_TOKEN)"
            if get_token()
            else login
        )
        said = f"is gated: accept its conditions at {page}, then {then}, and try again"
    elif refused and "Invalid" in str(refused[0]) and status == 401 and get_token():
        said = f"cannot be fetched, since the Hub does not accept your token: {login} anew"
    elif met(errors.RepositoryNotFoundError):
        said = (
            "is not on the Hub, or is private: check its name, "
            f"{'use a token that may read it' if get_token() else f'{login} if it is yours'}, {ELSE}"
        )
    elif met(errors.RevisionNotFoundError):
        said = f"has no revision '{revision}': see {page}/tree/main for those it has"
    elif met(errors.OfflineModeIsEnabled) or constants.is_offline_mode():
        said = f"is not on this machine, and HF_HUB_OFFLINE forbids to fetch it: unset that, {ELSE}"
    elif status in (403, 429) or (status or 0) >= 500:
        said = f"cannot be fetched now, since the Hub answers {status}: try again later, {ELSE}"
    elif not hub_answers():
        said = (
            f"is not on this machine, and the Hub does not answer at {constants.ENDPOINT}: check the "
            f"connection, a proxy and HF_ENDPOINT, {ELSE}"
        )
    else:
        return ModelError(
            f"The model '{_label(repository, revision)}' cannot be fetched from the Hub ({one_line(error)}): "
            f"check its name, its access and the connection, {ELSE}."
        )
    return ModelError(f"The model '{_label(repository, revision)}' {said}.")


def _label(repository: str, revision: str | None) -> str:
    return repository + (f"@{revision}" if revision else "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__

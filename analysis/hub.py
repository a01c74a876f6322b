"""Whether the Hub can be reached, asked once in a while instead of waited for at every file.

The client libraries retry for half a minute before they say that there is no network. Knows nothing about
models or data sets.
"""

from __future__ import annotations

import time

_REMEMBERED = 30.0
"""Seconds for which an answer is believed."""
_last: dict[str, tuple[float, bool]] = {}


def hub_answers() -> bool:
    """Whether anything answers at the Hub's address; within ten seconds, or at once when just asked."""
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

"""Exit statuses, and what each means to who starts our processes again.

Owns the numbers; must not know who ends or who starts.
"""

from __future__ import annotations

from schemas.errors import (
    FencedError,
    MessageError,
    MindstreamError,
    NoReleaseError,
    NotRunningError,
    ReleaseError,
    SettingsError,
)

FAILED = 1  # something went wrong on the way: another attempt may do
WRONG = 2  # what was asked cannot work as it was asked
TAKEN_OVER = 3  # another process has this one's place

# Starting a process again after one of these does nothing good.
FINAL = {
    WRONG: "its settings are wrong",
    TAKEN_OVER: "another one has taken its place, perhaps on another machine",
}

_WRONG = (SettingsError, NotRunningError, NoReleaseError, ReleaseError, MessageError)


def status_of(error: MindstreamError) -> int:
    """Give the exit status of a command that ends with an error of ours."""
    if isinstance(error, FencedError):
        return TAKEN_OVER
    return WRONG if isinstance(error, _WRONG) else FAILED

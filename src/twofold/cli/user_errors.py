"""Errors of the user's code, shown as such: the traceback has the frames of that code, and none of Twofold's."""

import importlib
import traceback
from pathlib import Path

_OURS = (str(Path(__file__).parents[1]), str(Path(importlib.__file__).parent), "<frozen importlib")


class UserCodeFailed(Exception):
    """Code of the user failed; the cause is its error. `what` says which code."""

    def __init__(self, what: str, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.what = what
        self.__cause__ = cause


def user_traceback(error: BaseException) -> str:
    """The traceback of an error and of its causes without the frames of Twofold and of the import system.

    All frames where there are no others: then it is an error of Twofold.
    """
    shown = traceback.TracebackException.from_exception(error)
    parts = list(_chain(shown))
    kept = [[frame for frame in part.stack if not _is_ours(frame.filename)] for part in parts]
    if any(kept) or isinstance(error, SyntaxError):
        for part, frames in zip(parts, kept, strict=True):
            part.stack = traceback.StackSummary.from_list(frames)
    return "".join(shown.format())


def _chain(shown: traceback.TracebackException) -> list[traceback.TracebackException]:
    causes = [each for each in (shown.__cause__, shown.__context__) if each is not None]
    return [shown, *(part for each in causes for part in _chain(each))]


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)

"""The ground floor, which ships to the device: numpy, Pillow and one runtime; no torch.

`open_session(folder).run(image)` is all that a device needs. It is loaded when it is asked for: a command's help needs none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtimes.errors import UserError
    from runtimes.scores import Scores
    from runtimes.session import Session, open_session

__all__ = ["Scores", "Session", "UserError", "open_session"]


def __getattr__(name: str) -> Any:
    """What the package offers by name, loaded now."""
    if name not in __all__:
        raise AttributeError(f"module 'runtimes' has no attribute {name!r}")
    from runtimes import errors, scores, session

    return getattr({"UserError": errors, "Scores": scores}.get(name, session), name)

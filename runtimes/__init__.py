"""The ground floor, which ships to the device: numpy, Pillow and one runtime; no torch.

`open_session(folder).run(image)` is all that a device needs.
"""

from runtimes.errors import UserError
from runtimes.scores import Scores
from runtimes.session import Session, open_session

__all__ = ["Scores", "Session", "UserError", "open_session"]

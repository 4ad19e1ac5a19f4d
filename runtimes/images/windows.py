"""Windows of CT by name: which Hounsfield units are shown as black and as white.

Owns: WINDOWS with their sources, `window_named`. Does not own: what a window does to an image (spec.py), the window that a DICOM file
brings (dicom_levels.py). A window of centre c and width w shows c - w / 2 as black and c + w / 2 as white (LINEAR_EXACT, DICOM PS3.3
C.11.2.1.3.2).
"""

from __future__ import annotations

import difflib
import re

from runtimes.errors import USAGE, UserError

MOST_WINDOWS = 3  # a channel each
RADIOPAEDIA = "Radiopaedia, Windowing (CT), rID 52108"
RSNA = "RSNA Intracranial Hemorrhage Detection 2019, windows of the published solutions"
# Centre, width, source. Where a source gives a range, its middle is taken.
WINDOWS: dict[str, tuple[float, float, str]] = {
    "brain": (40, 80, RADIOPAEDIA), "subdural": (75, 215, f"{RADIOPAEDIA} (width 130 to 300, centre 50 to 100)"),
    "stroke": (40, 40, RADIOPAEDIA), "temporal-bone": (600, 2800, RADIOPAEDIA), "soft-tissue": (40, 375, f"{RADIOPAEDIA} (width 350 to "
                                                                                                          "400, centre 20 to 60)"),
    "lung": (-600, 1500, RADIOPAEDIA), "mediastinum": (50, 350, RADIOPAEDIA), "abdomen": (50, 400, RADIOPAEDIA),
    "liver": (30, 150, RADIOPAEDIA), "spine": (50, 250, RADIOPAEDIA), "bone": (400, 1800, RADIOPAEDIA), "blood": (80, 200, RSNA)}
NUMBERS = re.compile(r"w(\d+(?:\.\d+)?)l([+-]?\d+(?:\.\d+)?)", re.IGNORECASE)


def window_named(name: str) -> tuple[float, float]:
    """What is black and what is white of a window: a name of WINDOWS, or its width and level as radiologists write it, W80L40."""
    numbers = NUMBERS.fullmatch(name)
    if numbers is None and name.lower() not in WINDOWS:
        near = difflib.get_close_matches(name.lower(), WINDOWS, 1)
        raise UserError(f"--windows {name} is unknown{f'; did you mean {near[0]}?' if near else ''}; expected {', '.join(WINDOWS)}, or "
                        "width and level such as W80L40", USAGE)
    centre, width = (float(numbers[2]), float(numbers[1])) if numbers else WINDOWS[name.lower()][:2]
    return centre - width / 2, centre + width / 2

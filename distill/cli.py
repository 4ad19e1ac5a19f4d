"""The command line of rd-distill: read the settings, then load the workshop.

Owns: main. Does not own: settings (config.py), the work (commands.py).
"""

from __future__ import annotations

import sys

from distill.settings.distill import DistillSettings
from runtimes.errors import finish
from runtimes.flags import command_line, parse


def main() -> None:
    """Entry point of rd-distill."""

    def command() -> int:
        settings = parse(DistillSettings, sys.argv[1:], "rd-distill", "Distil a frozen teacher into a small student.")
        from distill.commands import distill

        return distill(settings, command_line("rd-distill"))

    sys.exit(finish(command, resumes=True))


if __name__ == "__main__":
    main()

"""The command line of rd-distill: read the settings, then load the workshop.

Owns: main. Does not own: settings (settings), the work (commands.py, dry_run.py).
"""

from __future__ import annotations

import sys

from distill.settings.continual import with_task_names
from distill.settings.distill import DistillSettings
from runtimes.commands.flags import command_line, parse
from runtimes.errors import finish

EXAMPLES = (("rd-distill --student mobilenetv3", "on synthetic head CT; every other setting has a default"),
            ("rd-distill --data images/ --student resnet18 --out small", "your class folders, or a CSV: --data labels.csv"),
            ("rd-distill --student auto --max-latency-ms 3", "the best network that answers within 3 ms"))


def main() -> None:
    """Entry point of rd-distill."""

    def command() -> int:
        settings = parse(DistillSettings, sys.argv[1:], "rd-distill", "Distil a frozen teacher into a small student.",
                         examples=EXAMPLES, spelled=with_task_names)
        if settings.dry_run:
            from distill.dry_run import dry_run

            return dry_run(settings)
        from distill.commands import distill

        return distill(settings, command_line("rd-distill"))

    sys.exit(finish(command, resumes=True))


if __name__ == "__main__":
    main()

"""The command line of rd-export: read the settings, then load the workshop.

Owns: main. Does not own: settings (config.py), the work (commands.py).
"""

from __future__ import annotations

import sys

from export.config import ExportSettings
from runtimes.commands.flags import command_line, parse
from runtimes.errors import finish

EXAMPLES = (("rd-export --target onnx", "the student in student/ as one ONNX file, proven and timed"),
            ("rd-export --target openvino --precision int8", "smaller and faster, refused where decisions change"),
            ("rd-export --student-dir small --input-size 512x640", "for a device that gives images of this size"))


def main() -> None:
    """Entry point of rd-export."""

    def command() -> int:
        settings = parse(ExportSettings, sys.argv[1:], "rd-export", "Export a student to one file a device can run.",
                         examples=EXAMPLES)
        from export.commands import export

        return export(settings, command_line("rd-export"))

    sys.exit(finish(command, resumes=True))


if __name__ == "__main__":
    main()

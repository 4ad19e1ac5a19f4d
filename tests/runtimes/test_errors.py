"""However a command ends, one line says so: no traceback on the screen, no run lost to a stream that nobody reads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from runtimes.errors import FAILED, INTERRUPTED, MISSING, UserError, finish

ENDING = "import sys\nfrom runtimes.errors import UserError, finish\n"


def run(code: str, *, shell: str = "{}", program: str = "rd-distill") -> subprocess.CompletedProcess[str]:
    """Run code as a command in a process of its own, through a line of a shell."""
    line = shell.format('"$0" -c "$1"')
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}", sys.executable, ENDING + f"sys.argv[0] = {program!r}\n" + code],
                          capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize(("raised", "code", "words"), [
    ("UserError('say why', 4)", 4, "error: say why"),
    ("ModuleNotFoundError('no', name='torch')", MISSING, "torch is not installed"),
    ("ImportError('libcudart.so: cannot open', name='torch')", MISSING, "torch is installed and cannot be loaded"),
    ("ImportError('failed to map segment')", MISSING, "cannot be loaded"),
    ("MemoryError()", FAILED, "memory ran out"),
    ("RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')", FAILED, "memory ran out"),
    ("RuntimeError(\"[enforce fail] DefaultCPUAllocator: can't allocate memory\")", FAILED, "memory ran out"),
    ("OSError(28, 'No space left on device', 'student.partial/pixels.u8')", FAILED, "No space left on device (student.partial/pixels.u8)"),
    ("KeyboardInterrupt()", INTERRUPTED, "--resume goes on"),
    ("RecursionError('maximum recursion depth exceeded')", FAILED, "RecursionError"),
    ("UnicodeEncodeError('utf-8', '\\udcff', 0, 1, 'surrogates not allowed')", FAILED, "UnicodeEncodeError"),
])
def test_every_end_is_one_line_and_a_code(raised: str, code: int, words: str) -> None:
    done = run(f"def command():\n    raise {raised}\nsys.exit(finish(command, resumes=True))")
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_unforeseen_keeps_its_traceback_in_a_log_that_is_named() -> None:
    done = run("def command():\n    raise ZeroDivisionError('by nothing')\nsys.exit(finish(command))")
    match = re.search(r"The traceback is in (\S+\.log)", done.stderr)
    assert match, done.stderr
    log = Path(match[1])
    assert "ZeroDivisionError: by nothing" in log.read_text()
    assert "Traceback" in log.read_text()
    assert log.name.startswith("rd-distill-")
    log.unlink()


WORK = ("import os, time\ndef command():\n    for number in range(2000):\n        print('line', number, flush=True)\n"
        "    open(os.environ.get('RESULT', '/dev/null'), 'w').write('whole')\n    return 0\nsys.exit(finish(command))")


@pytest.mark.parametrize("shell", ["{} | head -1", "{} >&-", "{} > /dev/full", "{} >&- 2>&-", "{} <&- >&- 2>&-", "{} 2>&1 | head -1",
                                   "PYTHONIOENCODING=ascii {} | tail -1"])
def test_a_run_whose_output_nobody_reads_goes_on_to_its_end(tmp_path: Path, shell: str) -> None:
    result = tmp_path / "result"
    done = run(f"import os\nos.environ['RESULT'] = {str(result)!r}\n{WORK}", shell=shell)
    assert result.read_text() == "whole"
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_full_disk_behind_stdout_is_told_once() -> None:
    done = run(WORK, shell="{} > /dev/full")
    assert done.stderr.count("standard output cannot be written any more") == 1


def test_with_all_streams_closed_no_file_takes_their_place(tmp_path: Path) -> None:
    """A file opened first would get number 1, and what a library prints would land in it."""
    code = (f"import os\ndef command():\n    with open({str(tmp_path / 'model')!r}, 'wb') as file:\n        file.write(b'weights')\n"
            "        file.flush()\n        os.write(1, b'library prints')\n        os.write(2, b'library warns')\n    return 0\n"
            "sys.exit(finish(command))")
    assert run(code, shell="{} <&- >&- 2>&-").returncode == 0
    assert (tmp_path / "model").read_bytes() == b"weights"


def test_letters_that_a_terminal_lacks_are_escaped() -> None:
    done = run("def command():\n    print('Schädel \\u2501')\n    raise UserError('Ü')\nsys.exit(finish(command))",
               shell="PYTHONIOENCODING=ascii {}")
    assert done.returncode == 1
    assert "Sch\\xe4del \\u2501" in done.stdout
    assert "error: \\xdc" in done.stderr


def test_what_a_command_returns_is_returned() -> None:
    assert finish(lambda: 4) == 4
    with pytest.raises(SystemExit):
        finish(lambda: sys.exit(2))

    def refuse() -> int:
        raise UserError("no", 5)

    assert finish(refuse) == 5

"""The training state: killed at any moment, on a full disk or with flipped bits, a whole state is found or none."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.training import state as module
from distill.training.state import INDEX, load_state, save_state

SAVER = """
import os, sys, torch
from pathlib import Path
from distill.training.state import load_state, save_state
folder = Path(sys.argv[1])
found = load_state(folder)
epoch = found[0] if found else 0
os.write(1, b"ready\\n")  # one write a line: two processes share the pipe
while True:
    epoch += 1
    save_state(folder, epoch, {"a": torch.full((200_000,), float(epoch)), "b": torch.tensor(epoch)}, {"epoch": epoch})
    os.write(1, f"{epoch}\\n".encode())
"""


def tensors(epoch: int, size: int = 1000) -> dict[str, Tensor]:
    layout = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    return {"a": torch.full((size,), float(epoch)), "b": torch.tensor(epoch), "c": layout}


def check(folder: Path) -> int:
    """The epoch of the state in a folder, whose every part must be of that epoch."""
    found = load_state(folder)
    assert found is not None
    epoch, values, record = found
    assert record["epoch"] == epoch
    assert int(values["b"]) == epoch
    assert bool((values["a"] == epoch).all())
    return epoch


def test_what_is_saved_is_loaded_and_only_the_last_two_are_kept(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    for epoch in range(1, 6):
        save_state(tmp_path, epoch, tensors(epoch), {"epoch": epoch, "history": [{"loss": 0.1 + epoch / 3}]})
        assert check(tmp_path) == epoch
        found = load_state(tmp_path)
        assert found is not None
        assert found[2]["history"] == [{"loss": 0.1 + epoch / 3}]  # floats come back bit for bit
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-0.safetensors", "state-1.safetensors", INDEX]


DRIVER = f"""
import os, sys
import torch, distill.training.state, safetensors.torch
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        exec(compile({SAVER!r}, "saver", "exec"))
    os.write(1, f"child {{child}}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"end\\n")
"""


def test_thirty_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    draw, last = random.Random(0), 0
    # Importing torch takes seconds and a save milliseconds: one process forks a saver for every kill.
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for _ in range(30):
            process.stdin.write("go\n")
            process.stdin.flush()
            said: list[list[str]] = []
            while not {"child", "ready"} <= {words[0] for words in said}:  # the two come in either order
                said.append(process.stdout.readline().split())
            child = next(int(words[1]) for words in said if words[0] == "child")
            time.sleep(draw.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            told = [int(words[0]) for words in said if words[0].isdigit()]
            while (word := process.stdout.readline().strip()) != "end":
                told += [int(word)] if word.isdigit() else []
            if told:
                assert check(tmp_path) >= max(told)  # what was reported as saved is there
                last = max(told)
            elif last:
                assert check(tmp_path) >= last
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert last > 3
    assert not list(tmp_path.glob(".*.tmp"))  # orphans of kills are swept up by loading


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << bit)]))


def test_a_hundred_flipped_bits_of_the_newest_state_all_fall_back_to_the_one_before(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_state(tmp_path, epoch, tensors(epoch), {"epoch": epoch})
    newest = tmp_path / "state-0.safetensors"
    draw = np.random.default_rng(0)
    for _ in range(100):
        place, bit = int(draw.integers(newest.stat().st_size)), int(draw.integers(8))
        flip(newest, place, bit)
        assert check(tmp_path) == 1
        flip(newest, place, bit)
    assert check(tmp_path) == 2


def test_a_hundred_flipped_bits_of_the_index_never_give_a_wrong_state(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_state(tmp_path, epoch, tensors(epoch), {"epoch": epoch})
    index = tmp_path / INDEX
    draw = np.random.default_rng(0)
    for _ in range(100):
        place, bit = int(draw.integers(index.stat().st_size)), int(draw.integers(8))
        flip(index, place, bit)
        assert load_state(tmp_path) is None
        flip(index, place, bit)
    assert check(tmp_path) == 2


def test_cut_and_missing_files_fall_back(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save_state(tmp_path, epoch, tensors(epoch), {"epoch": epoch})
    newest, before = tmp_path / "state-0.safetensors", tmp_path / "state-1.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert check(tmp_path) == 1
    newest.unlink()
    assert check(tmp_path) == 1
    before.write_bytes(b"")
    assert load_state(tmp_path) is None
    (tmp_path / INDEX).write_bytes(b"\xff\xfe\x00")
    assert load_state(tmp_path) is None


def test_saving_goes_on_after_a_fall_back(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        save_state(tmp_path, epoch, tensors(epoch), {"epoch": epoch})
    flip(tmp_path / "state-1.safetensors", 500, 3)
    assert check(tmp_path) == 2
    for epoch in (3, 4):
        save_state(tmp_path, epoch, tensors(epoch), {"epoch": epoch})
        assert check(tmp_path) == epoch


def test_orphans_are_removed_and_nothing_else(tmp_path: Path) -> None:
    save_state(tmp_path, 1, tensors(1), {"epoch": 1})
    (tmp_path / ".state-0.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "pixels.u8").write_bytes(b"kept")
    assert check(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pixels.u8", "state-1.safetensors", INDEX]


def test_a_file_size_limit_is_an_error_and_the_state_before_stays(tmp_path: Path) -> None:
    save_state(tmp_path, 1, tensors(1), {"epoch": 1})
    code = ("import resource, signal, sys, torch\nfrom pathlib import Path\nfrom distill.training.state import save_state\n"
            "from runtimes.errors import finish\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "def command():\n    save_state(Path(sys.argv[1]), 2, {'a': torch.zeros(100_000)}, {'epoch': 2})\n    return 0\n"
            "sys.exit(finish(command))")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "error: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert check(tmp_path) == 1
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_error_of_the_disk_at_any_write_leaves_a_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    for epoch in (1, 2):
        save_state(tmp_path, epoch, tensors(epoch), {"epoch": epoch})
    real, calls = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= 2 * call - 1:  # every atomic write syncs the file, then the folder
            raise OSError(5, "Input/output error")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output error"):
            save_state(tmp_path, 3, tensors(3), {"epoch": 3})
    assert check(tmp_path) == 2
    assert not list(tmp_path.glob(".*.tmp"))
    save_state(tmp_path, 3, tensors(3), {"epoch": 3})
    assert check(tmp_path) == 3


def test_a_full_disk_is_an_oserror_and_the_state_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, 1, tensors(1), {"epoch": 1})
    real = module.write_atomic

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".safetensors":
            raise OSError(28, "No space left on device", str(path))
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", full)
        with pytest.raises(OSError, match="No space left"):
            save_state(tmp_path, 2, tensors(2), {"epoch": 2})
    assert check(tmp_path) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_an_error_and_the_state_before_stays(tmp_path: Path) -> None:
    save_state(tmp_path, 1, tensors(1), {"epoch": 1})
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            save_state(tmp_path, 2, tensors(2), {"epoch": 2})
        assert check(tmp_path) == 1
    finally:
        tmp_path.chmod(0o755)


def test_a_folder_that_vanished_is_an_oserror(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    save_state(folder, 1, tensors(1), {"epoch": 1})
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        save_state(folder, 2, tensors(2), {"epoch": 2})

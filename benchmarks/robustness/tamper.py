"""A signed artifact spoilt in every way: the device must refuse each one before any runtime opens the model (S-1).

Owns: the changes, judging, the table. Does not own: the artifact, a small phantom student by the real commands; the checks.
Each change is judged twice: by rd-verify --public-key in a process of its own (exit 1, one sentence, no traceback), and by
`open_session` with a trap in place of the runtimes.

    python -m benchmarks.robustness.tamper
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.record import RESULTS, command_line, facts, store
from benchmarks.robustness import small_artifact
from runtimes import session
from runtimes.errors import FAILED, UserError
from runtimes.files.folder import read_json, write_json, write_manifest

Change = Callable[[Path], str]


@dataclass(frozen=True)
class Verdict:
    """One change: of which kind, what was done, how rd-verify ended, what it said, whether a runtime was asked, whether all is well."""

    kind: str
    change: str
    code: int
    told: str
    runtime_asked: bool
    refused: bool


def files_of(folder: Path) -> list[str]:
    """Every file of an artifact, by its path below the folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def altered(name: str, at: int, mask: int) -> Change:
    """Change one byte by XOR."""

    def change(folder: Path) -> str:
        data = bytearray((folder / name).read_bytes())
        data[at] ^= mask
        (folder / name).write_bytes(data)
        return f"{name}, byte {at} xor {mask:#04x}"

    return change


def digit(name: str) -> Change:
    """Change the last digit of the first number in a JSON file that is not 1 (`format`)."""

    def change(folder: Path) -> str:
        text = (folder / name).read_text()
        at = next(place for place, one in enumerate(text) if one.isdigit() and text[place - 1] in " -." and one not in "01")
        (folder / name).write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1:])
        return f"{name}, digit at {at}: {text[at]} becomes {(int(text[at]) + 1) % 10}"

    return change


def resealed(name: str, key: str, value: object) -> Change:
    """Change a figure and write a manifest that agrees, as somebody without the key would."""

    def change(folder: Path) -> str:
        write_json(folder / name, {**read_json(folder / name), key: value})
        held = read_json(folder / "manifest.json")
        write_manifest(folder, "artifact", {one: held[one] for one in held if one not in ("kind", "format", "files")})
        return f"{name}, {key} becomes {value}, manifest written anew"

    return change


def added(name: str) -> Change:
    """Add an empty file."""
    def change(folder: Path) -> str:
        (folder / name).touch()
        return name

    return change


def removed(name: str) -> Change:
    """Remove a file."""
    def change(folder: Path) -> str:
        (folder / name).unlink()
        return name

    return change


def renamed(name: str) -> Change:
    """Rename a file."""
    return lambda folder: ((folder / name).rename(folder / f"{name}.old"), f"{name} to {name}.old")[1]


def foreign_signature(other: Path) -> Change:
    """Put the signature of another artifact of the same maker in place."""
    return lambda folder: (shutil.copy(other / "manifest.sig", folder), "that of another artifact by the same key")[1]


def changes(artifact: Path, other: Path, draw: random.Random, per_file: int, flips: int) -> Iterator[tuple[str, Change, str]]:
    """Every change: its kind, what does it, and the key it is judged by."""
    names = files_of(artifact)
    sizes = {name: (artifact / name).stat().st_size for name in names}
    for name in names:
        for _ in range(per_file):
            yield "one byte, each file in turn", altered(name, draw.randrange(sizes[name]), draw.randrange(1, 256)), "pub.pem"
    for _ in range(flips):
        name = draw.choice(names)
        yield "one bit, any file", altered(name, draw.randrange(sizes[name]), 1 << draw.randrange(8)), "pub.pem"
    for name in ("parity.json", "latency.json", "manifest.json", "bom.cdx.json"):
        yield "a digit of a figure", digit(name), "pub.pem"
    yield "a figure, and the manifest written anew", resealed("parity.json", "flips", 7), "pub.pem"
    for name in ("extra.bin", "model.onnx.data", "test_data_set_0/input_1.pb", "test_data_set_0/manifest.sig"):
        yield "a file added", added(name), "pub.pem"
    for name in names:
        if name != "manifest.sig":
            yield "a file removed", removed(name), "pub.pem"
            yield "a file renamed", renamed(name), "pub.pem"
    yield "the signature removed", removed("manifest.sig"), "pub.pem"
    yield "another signature", foreign_signature(other), "pub.pem"
    yield "another key", lambda folder: "nothing changed, judged by somebody else's key", "other.pem"


def judged(work: Path, artifact: Path, kind: str, change: Change, key: str) -> Verdict:
    """Copy, change, verify by both doors, throw the copy away."""
    folder = work / "spoilt"
    shutil.copytree(artifact, folder)
    what, asked, told = change(folder), [], ""
    done = small_artifact.typed("runtimes.cli", str(folder), "--public-key", str(work / key))
    honest = session.open_runtime
    session.open_runtime = lambda *_, **__: asked.append(1)  # type: ignore[assignment]
    try:
        session.open_session(folder, public_key=work / key)
    except UserError as error:
        told = str(error).replace(str(folder), "ARTIFACT").replace(str(work), "WORK")
    finally:
        session.open_runtime = honest
        shutil.rmtree(folder)
    wording = done.stderr.startswith("error:") and done.stderr.count("\n") == 1 and "good" not in done.stdout
    return Verdict(kind, what, done.returncode, told, bool(asked), done.returncode == FAILED and wording and not asked and bool(told))


def table(verdicts: list[Verdict]) -> str:
    """Markdown: a row for each kind of change."""
    tried, refused = Counter(one.kind for one in verdicts), Counter(one.kind for one in verdicts if one.refused)
    touched = {kind: len({one.change.split(",")[0] for one in verdicts if one.kind == kind}) for kind in tried}
    rows = "".join(f"| {kind} | {touched[kind]} | {count} | {refused[kind]} |\n" for kind, count in tried.items())
    return (f"| changed | places | tried | refused before a runtime opened it |\n|---|---|---|---|\n{rows}"
            f"| all | | {len(verdicts)} | {refused.total()} |")


def keys(work: Path) -> None:
    """The maker's key pair and somebody else's public key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    for private, public in (("key.pem", "pub.pem"), ("stranger.pem", "other.pem")):
        key = Ed25519PrivateKey.generate()
        (work / private).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (work / public).write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def main() -> None:
    """Make an artifact, spoil copies of it; exit 1 when one slipped through or the whole one is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-file", type=int, default=3, help="byte changes in each file")
    parser.add_argument("--flips", type=int, default=100, help="bit flips over all files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "tamper.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        keys(work)
        small_artifact.student(work)
        artifact = small_artifact.artifact(work, "artifact", "--sign", "key.pem")
        other = small_artifact.artifact(work, "other", "--sign", "key.pem", "--input", "tensor")
        draw = random.Random(given.seed)
        verdicts = [judged(work, artifact, *one) for one in changes(artifact, other, draw, given.per_file, given.flips)]
        whole = small_artifact.typed("runtimes.cli", str(artifact), "--public-key", str(work / "pub.pem"))
        listed = {path: (artifact / path).stat().st_size for path in files_of(artifact)}
    for one in verdicts:
        if not one.refused:
            print(f"SLIPPED THROUGH: {one}")
    slipped = sum(not one.refused for one in verdicts)
    print(f"{table(verdicts)}\n\nuntouched: exit {whole.returncode}, {json.dumps(whole.stdout.splitlines()[1])}")
    store(given.out, {"format": 1, "command": command_line(), "facts": facts(), "files": listed,
                      "untouched_exit_code": whole.returncode, "tried": len(verdicts), "slipped_through": slipped,
                      "verdicts": [asdict(one) for one in verdicts]})
    sys.exit(1 if slipped or whole.returncode else 0)


if __name__ == "__main__":
    main()

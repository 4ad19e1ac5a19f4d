"""Who made an artifact: an Ed25519 signature over the exact bytes of its manifest, which names the bytes of every other file.

Owns: public keys as PEM and their fingerprints, `signed_manifest`. Does not own: signing (the export package), hashes of
files (folder.py). Needs the cryptography package, and only where a key is named.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from runtimes.errors import MISSING, USAGE, UserError
from runtimes.files.folder import MANIFEST, SIGNATURE
from runtimes.files.reading import LIMITS, MANIFEST_BYTES, read_file

SIZE = 64  # bytes of an Ed25519 signature
MOST_KEY_BYTES = 1 << 16
PUBLIC = "openssl pkey -in key.pem -pubout -out pub.pem"


def load_cryptography() -> Any:
    """The Ed25519 keys, PEM readers and errors of the cryptography package; UserError (exit 5) where it is not installed."""
    try:
        import cryptography.exceptions
        import cryptography.hazmat.primitives.asymmetric.ed25519
        import cryptography.hazmat.primitives.serialization
    except ImportError as error:
        raise UserError(f"signatures need the cryptography package ({error}); pip install 'rd-distill[sign]'", MISSING) from None
    return cryptography


def read_key_file(path: Path, flag: str) -> bytes:
    """The bytes of a key file; UserError (exit 2) that names the flag where it cannot be one."""
    try:
        with path.open("rb") as file:  # a pipe is right here: --public-key <(...)
            data = file.read(MOST_KEY_BYTES + 1)
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be read ({error.strerror}); expected an Ed25519 key in PEM", USAGE) from None
    if len(data) > MOST_KEY_BYTES or b"-----BEGIN " not in data:
        raise UserError(f"{flag} {path} is not a PEM file; expected an Ed25519 key that begins with -----BEGIN", USAGE)
    return data


def pem_label(data: bytes) -> str:
    """What a PEM file says that it holds, such as PUBLIC KEY."""
    return data.partition(b"-----BEGIN ")[2].partition(b"-----")[0][:40].decode("ascii", "replace")


def load_public_key(path: Path | str) -> Any:
    """An Ed25519 public key in PEM; UserError (exit 2) for anything else, exit 5 without the cryptography package."""
    library, path = load_cryptography(), Path(path)
    data = read_key_file(path, "--public-key")
    label = pem_label(data)
    if "PRIVATE" in label:
        raise UserError(f"--public-key {path} holds a private key, which belongs on no device; write its public half with: {PUBLIC}", USAGE)
    try:
        key = library.hazmat.primitives.serialization.load_pem_public_key(data)
    except (ValueError, library.exceptions.UnsupportedAlgorithm):
        raise UserError(f"--public-key {path}: no public key can be read from its {label or 'PEM'}; write one with: {PUBLIC}",
                        USAGE) from None
    if not isinstance(key, library.hazmat.primitives.asymmetric.ed25519.Ed25519PublicKey):
        raise UserError(f"--public-key {path} is of kind {kind_of(key)}, expected Ed25519; artifacts are signed with no other kind", USAGE)
    return key


def kind_of(key: Any) -> str:
    """What sort of key the library read, such as RSA."""
    return type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey").strip("_") + " key"


def fingerprint(key: Any) -> str:
    """The name of a public key: sha256 over its DER, as `openssl pkey -pubin -in pub.pem -outform DER | sha256sum` prints."""
    forms = load_cryptography().hazmat.primitives.serialization
    der = key.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def is_signed(folder: Path) -> bool:
    """Whether a signature lies in a folder, good or not."""
    return (folder / SIGNATURE).is_file()


def signed_manifest(folder: Path, public_key: Path | str) -> tuple[bytes, str]:
    """The bytes of a folder's manifest that this key has signed, and the key's fingerprint.

    Raises UserError: exit 1 where they are not signed by it, 2 for a bad key, 5 without the cryptography package.
    """
    library, key = load_cryptography(), load_public_key(public_key)
    place, name = folder / SIGNATURE, fingerprint(key)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected an artifact signed by key {name}")
    if place.is_symlink() or not place.is_file():
        raise UserError(f"{folder} is not signed: it has no {SIGNATURE}; expected one by key {name}. Do not use it: "
                        "fetch it again from its maker, or have it exported with --sign")
    try:
        manifest, signature = read_file(folder / MANIFEST, MANIFEST_BYTES), read_file(place, LIMITS[".sig"])
    except UserError as error:
        raise UserError(f"{error}; fetch the artifact again from its maker") from None
    if len(signature) != SIZE:
        raise UserError(f"{place} is no Ed25519 signature: {len(signature)} bytes, expected {SIZE}; fetch the artifact again from its "
                        "maker")
    try:
        key.verify(signature, manifest)
    except library.exceptions.InvalidSignature:
        raise UserError(f"{place} is not a signature of {MANIFEST} by key {name}: one of them was changed, or another key "
                        "signed; do not use the artifact, fetch it again from its maker") from None
    return manifest, name

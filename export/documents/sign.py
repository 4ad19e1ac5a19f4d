"""The maker's name on an artifact: manifest.sig, an Ed25519 signature over the exact bytes of manifest.json.

Owns: reading a private key (PEM, its password from RD_SIGN_PASSWORD), writing the signature. Does not own: checking one
(runtimes/artifact/signature.py), making keys, which openssl does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runtimes.artifact.signature import fingerprint, kind_of, load_cryptography, pem_label, read_key_file
from runtimes.errors import USAGE, UserError
from runtimes.files.folder import MANIFEST, SIGNATURE, write_atomic

PASSWORD = "RD_SIGN_PASSWORD"
MAKE = "openssl genpkey -algorithm ed25519 -out key.pem"


def load_signing_key(path: Path) -> Any:
    """An Ed25519 private key in PEM; UserError (exit 2) for anything else, exit 5 without the cryptography package."""
    library = load_cryptography()
    data = read_key_file(path, "--sign")
    label = pem_label(data)
    if label == "PUBLIC KEY":
        raise UserError(f"--sign {path} holds a public key; expected the private one, made with: {MAKE}", USAGE)
    encrypted = b"ENCRYPTED" in data
    password = os.environ.get(PASSWORD)
    if encrypted and not password:
        raise UserError(f"--sign {path} is encrypted; put its password into the environment variable {PASSWORD}", USAGE)
    try:
        key = library.hazmat.primitives.serialization.load_pem_private_key(
            data, password=password.encode() if encrypted and password else None)
    except (ValueError, TypeError, library.exceptions.UnsupportedAlgorithm):
        reason = f"{PASSWORD} does not open it, or it is damaged" if encrypted else f"no private key can be read from its {label or 'PEM'}"
        raise UserError(f"--sign {path}: {reason}; expected an Ed25519 key, made with: {MAKE}", USAGE) from None
    if not isinstance(key, library.hazmat.primitives.asymmetric.ed25519.Ed25519PrivateKey):
        raise UserError(f"--sign {path} is of kind {kind_of(key)}, expected Ed25519, made with: {MAKE}", USAGE)
    return key


def sign_manifest(folder: Path, key: Any) -> str:
    """Write manifest.sig beside a finished manifest, 64 bytes that openssl can check, too; returns the key's fingerprint."""
    write_atomic(folder / SIGNATURE, key.sign((folder / MANIFEST).read_bytes()))
    return fingerprint(key.public_key())


def signed_by(folder: Path, key: Any) -> bool:
    """Whether a folder's manifest carries the signature that this key gives; Ed25519 gives the same one each time."""
    place = folder / SIGNATURE
    return place.is_file() and place.read_bytes() == key.sign((folder / MANIFEST).read_bytes())

"""Passwords: how they are hashed, checked and replaced.

Owns Argon2 and the unsalted hashes of imported files. A check costs the same whatever is stored,
nothing included, so that its duration does not tell which accounts exist. It never stores or logs
a password.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

# What the vendor's servers gave to everybody: whoever has read their source could log in.
_WELL_KNOWN = frozenset({"admin123"})

# OWASP's Argon2id minimum (Password Storage Cheat Sheet): the library's default of 64 MiB a login
# would let a few logins at once exhaust a free host.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_DECOY = _HASHER.hash(secrets.token_urlsafe())


def generate() -> str:
    """Return a new random password of 96 bits."""
    return secrets.token_urlsafe(12)


def hashed(password: str) -> str:
    """Return the Argon2 hash to store."""
    return _HASHER.hash(password)


def matches(password: str, stored: str, legacy_salt: str) -> bool:
    """Check a password against a stored hash, "" where there is no account."""
    if _is_argon2(stored):
        return _argon2_matches(password, stored)
    _argon2_matches(password, _DECOY)
    legacy = hashlib.sha256((legacy_salt + password).encode()).hexdigest()
    is_right = hmac.compare_digest(legacy.encode(), stored.encode())
    return is_right and password not in _WELL_KNOWN


def is_outdated(stored: str) -> bool:
    """Tell whether a hash should be replaced now that its password is known."""
    return not _is_argon2(stored) or _HASHER.check_needs_rehash(stored)


def _is_argon2(stored: str) -> bool:
    return stored.startswith("$argon2")


def _argon2_matches(password: str, stored: str) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except VerifyMismatchError:
        return False

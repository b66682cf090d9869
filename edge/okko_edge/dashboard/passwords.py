"""The dashboard's password: kept only as a hash that is slow to guess from.

scrypt (RFC 7914) with the parameters N = 2^13, r = 8, p = 10, one of OWASP's equivalent choices and the one that takes
the least memory (8 MiB), because it runs beside the sorting.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets

from okko_models.errors import OkkoError

MIN_LENGTH = 8
MAX_LENGTH = 256
_COST, _BLOCK, _LANES = 13, 8, 10
_SALT_BYTES = _KEY_BYTES = 32
_PATTERN = re.compile(r"scrypt\$(\d{1,2})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/=]{16,128})\$([A-Za-z0-9+/=]{16,128})")


def hash_password(password: str) -> str:
    """Returns the text that belongs into the settings as `dashboard.password_hash`.

    Raises:
        OkkoError: the password is shorter than 8 or longer than 256 characters.
    """
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise OkkoError(
            f"the password has {len(password)} characters; it needs {MIN_LENGTH} to {MAX_LENGTH}: choose another one"
        )
    salt = secrets.token_bytes(_SALT_BYTES)
    key = _derive(password, salt, _COST, _BLOCK, _LANES, _KEY_BYTES)
    return f"scrypt${_COST}${_BLOCK}${_LANES}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"


def verify(password: str, password_hash: str) -> bool:
    """Returns whether the password is the right one; takes as long for a wrong one.

    Raises:
        OkkoError: the hash was not made by `hash_password`.
    """
    cost, block, lanes, salt, key = _parse(password_hash)
    return hmac.compare_digest(_derive(password[:MAX_LENGTH], salt, cost, block, lanes, len(key)), key)


def check_hash(password_hash: str) -> None:
    """Refuses a hash that `verify` could not use.

    Raises:
        OkkoError: the hash was not made by `hash_password`.
    """
    _parse(password_hash)


def _parse(password_hash: str) -> tuple[int, int, int, bytes, bytes]:
    found = _PATTERN.fullmatch(password_hash)
    try:
        if found is None:
            raise ValueError
        cost, block, lanes = (int(number) for number in found.groups()[:3])
        salt, key = (base64.b64decode(text, validate=True) for text in found.groups()[3:])
        if not (10 <= cost <= 17 and 1 <= block <= 16 and 1 <= lanes <= 16):
            raise ValueError
    except (ValueError, binascii.Error) as error:
        raise OkkoError(
            "dashboard.password_hash is not a hash that okko made; make one with: okko config password"
        ) from error
    return cost, block, lanes, salt, key


def _derive(password: str, salt: bytes, cost: int, block: int, lanes: int, length: int) -> bytes:
    memory = 256 * block * (1 << cost) + (1 << 20)
    secret = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=1 << cost, r=block, p=lanes, maxmem=memory, dklen=length)

"""The private keys of those who publish: encrypted files in folders, or keys that never leave a key service.

A key file is PKCS #8, encrypted, as `openssl pkey` reads it; making and using keys is securesystemslib's business. Each
role's public keys stand in the signed root metadata; a key service's key stands there with its address (`x-okko-uri`,
for example `awskms:alias/okko`), so that everybody who may use it can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from okko_models.registry.errors import RegistryError
from okko_models.registry.files import write_durably
from okko_models.registry.metadata import ROLES, require_tuf

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from securesystemslib.signer import Key, Signer
    from tuf.api.metadata import Root

URI: Final = "x-okko-uri"
_SHOWN: Final = 16
"""So many digits of a key's id stand in the name of its file."""


class KeyRing:
    """The keys at hand.

    Args:
        folders: folders with key files; new keys go to the first.
        passphrase: from a role to the passphrase of its key files; asked once a role.

    Raises:
        OkkoError: tuf is not installed.
    """

    def __init__(self, folders: Sequence[Path], passphrase: Callable[[str], str]) -> None:
        require_tuf()
        self.folders = tuple(folders)
        self._ask = passphrase
        self._known: dict[str, str] = {}
        self._opened: dict[Path, Any] = {}

    def create(self, role: str, *, passphrase: str | None = None) -> Signer:
        """Makes a key and its file, readable only by this user.

        Raises:
            RegistryError: no passphrase, or the folder cannot be written.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
        from securesystemslib.signer import CryptoSigner

        secret = self._passphrase(role) if passphrase is None else passphrase
        if not secret:
            raise RegistryError(f"the passphrase for the {role} key is empty; key files are always encrypted")
        private = Ed25519PrivateKey.generate()
        signer = CryptoSigner(private)
        data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(secret.encode()))
        path = self.folders[0] / f"{role}-{signer.public_key.keyid[:_SHOWN]}.pem"
        try:
            write_durably(path, data, mode=0o600)
        except OSError as error:
            raise RegistryError(f"{path} cannot be written: {error.strerror}") from error
        return signer

    def connect(self, uri: str) -> Signer:
        """Returns the signer of a key in a key service.

        Args:
            uri: scheme and name, as securesystemslib has them: `awskms:alias/okko`.

        Raises:
            RegistryError: there is no such service or no such key.
        """
        from securesystemslib.signer import SIGNER_FOR_URI_SCHEME
        from securesystemslib.signer import Signer as AnySigner

        scheme, _, name = uri.partition(":")
        service: Any = SIGNER_FOR_URI_SCHEME.get(scheme)
        if service is None or not name or not hasattr(service, "import_"):
            raise RegistryError(f"{uri!r} is no key in a key service; expected for example awskms:alias/NAME")
        try:
            address, key = service.import_(name)
            key.unrecognized_fields[URI] = address
            signer: Signer = AnySigner.from_priv_key_uri(address, key)
        except Exception as error:  # each service has exceptions of its own
            raise RegistryError(f"the key {uri} cannot be used: {error}") from error
        return signer

    def signers(self, root: Root, role: str) -> list[Signer]:
        """Returns the signers of a role's keys that are at hand."""
        found = (self._signer(root.keys[keyid], role) for keyid in root.roles[role].keyids if keyid in root.keys)
        return [signer for signer in found if signer is not None]

    def spare(self, role: str, known: Collection[str]) -> Signer | None:
        """Returns a key for a role that lies here but stands in no root metadata: made, but not yet brought in.

        Args:
            role: the role.
            known: ids of the keys of all roots so far.
        """
        from securesystemslib.signer import CryptoSigner

        for path in sorted(self.folders[0].glob(f"{role}-*.pem")):
            if not any(path.stem == f"{role}-{keyid[:_SHOWN]}" for keyid in known):
                return CryptoSigner(self._load(path, role))
        return None

    def _signer(self, key: Key, role: str) -> Signer | None:
        from securesystemslib.signer import CryptoSigner, SSlibKey
        from securesystemslib.signer import Signer as AnySigner

        if uri := key.unrecognized_fields.get(URI):
            try:
                signer: Signer = AnySigner.from_priv_key_uri(uri, key)
            except Exception as error:  # each service has exceptions of its own
                raise RegistryError(f"the key {uri} cannot be used: {error}") from error
            return signer
        for folder in self.folders:
            for name in (role, *ROLES):
                path = folder / f"{name}-{key.keyid[:_SHOWN]}.pem"
                if path.is_file() and isinstance(key, SSlibKey):
                    return CryptoSigner(self._load(path, name), key)
        return None

    def _load(self, path: Path, role: str) -> Any:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            if path not in self._opened:
                self._opened[path] = load_pem_private_key(path.read_bytes(), self._passphrase(role).encode())
            return self._opened[path]
        except (ValueError, TypeError) as error:
            raise RegistryError(f"{path} cannot be opened: wrong passphrase, or the file is damaged") from error
        except OSError as error:
            raise RegistryError(f"{path} cannot be read: {error.strerror}") from error

    def _passphrase(self, role: str) -> str:
        if role not in self._known:
            self._known[role] = self._ask(role)
        return self._known[role]

"""A certificate authority for tests: the files that TLS listeners, and their clients, are given."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in the PEM format: for the server, and for a client that trusts it and shows who it is."""

    folder: Path

    @property
    def ca_file(self) -> Path:
        """What the clients trust."""
        return self.folder / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        """Made out for localhost and 127.0.0.1."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """The key to it."""
        return self.folder / "server.key"

    @property
    def certificate(self) -> Path:
        """A client's certificate."""
        return self.folder / "client.pem"

    @property
    def key(self) -> Path:
        """The key to it."""
        return self.folder / "client.key"


def make_certificates(folder: Path) -> Certificates:
    """Write a new authority's certificates into a folder, which keeps no secret: everybody may read them."""
    import trustme

    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder)
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1", "::1")
    client = authority.issue_cert("client@postbus.test", common_name="client")
    authority.cert_pem.write_to_path(made.ca_file)
    for leaf, certificate, key in (
        (server, made.server_certificate, made.server_key),
        (client, made.certificate, made.key),
    ):
        leaf.private_key_pem.write_to_path(key)
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    # A server may run as a user of its own.
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return made


if __name__ == "__main__":
    make_certificates(Path(sys.argv[1]))

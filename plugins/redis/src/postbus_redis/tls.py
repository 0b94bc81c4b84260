"""The option ``ssl``: names and meanings are those of PHP's stream contexts, as Symfony takes them."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import isdir, isfile
from typing import Any

from postbus.dsn import Dsn, Options, option
from postbus.errors import DsnError
from postbus_redis.options import Address, RedisOptions


class TlsOptions(Options):
    """What may stand in the brackets of ``ssl[...]``."""

    cafile: str | None = option(None, "File with the certificates of the authorities to trust.")
    capath: str | None = option(None, "Folder with such files, named by their hashes.")
    local_cert: str | None = option(None, "File with the client's own certificate.")
    local_pk: str | None = option(None, "File with the key of that.")
    passphrase: str | None = option(None, "What the key is encrypted with.")
    ciphers: str | None = option(None, "Ciphers that may be used, as OpenSSL writes them.")
    verify_peer: bool = option(True, "Verify the server's certificate.")
    verify_peer_name: bool = option(True, "Verify that the certificate is for the host in the DSN.")
    allow_self_signed: bool = option(False, "Not possible: name the certificate as cafile.")
    capture_peer_cert: bool | None = option(None, "Belongs to PHP.", no_effect=True)
    capture_peer_cert_chain: bool | None = option(None, "Belongs to PHP.", no_effect=True)
    disable_compression: bool | None = option(None, "Belongs to PHP.", no_effect=True)
    SNI_enabled: bool | None = option(None, "Belongs to PHP.", no_effect=True)


def tls_settings(scheme: str, address: Address, options: RedisOptions) -> dict[str, Any]:
    """Return the client's settings for TLS; none where the scheme asks for no TLS."""
    if not address.tls:
        if options.ssl:
            raise DsnError(f"Option 'ssl' has no use with {scheme}://. Write rediss:// or valkeys://.")
        return {}
    tls = TlsOptions.from_dsn(Dsn(scheme, options=options.ssl or {}))
    if tls.allow_self_signed:
        raise DsnError(
            f"Option 'ssl[allow_self_signed]' of {scheme}:// cannot be true. Name the server's certificate in "
            "ssl[cafile], which makes it trusted."
        )
    return {
        "ssl_ca_certs": tls.cafile,
        "ssl_ca_path": tls.capath,
        "ssl_certfile": tls.local_cert,
        "ssl_keyfile": tls.local_pk,
        "ssl_password": tls.passphrase,
        "ssl_ciphers": tls.ciphers,
        "ssl_cert_reqs": "required" if tls.verify_peer else "none",
        "ssl_check_hostname": tls.verify_peer and tls.verify_peer_name,
    }


def refuse_missing_files(scheme: str, settings: Mapping[str, Any]) -> None:
    """Raise `DsnError` for a path that leads nowhere, which the client would take for a server that is away."""
    for setting, name, exists in (
        ("ssl_ca_certs", "cafile", isfile),
        ("ssl_ca_path", "capath", isdir),
        ("ssl_certfile", "local_cert", isfile),
        ("ssl_keyfile", "local_pk", isfile),
    ):
        path = settings.get(setting)
        if path is not None and not exists(path):
            shown = "" if name == "local_pk" else f": {path!r}"  # Somebody may have put the key itself there.
            raise DsnError(f"Option 'ssl[{name}]' of {scheme}:// names what is not there{shown}. Correct the path.")

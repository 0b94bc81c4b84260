"""The client's errors in our own words: what happened, where, and what to do."""

from __future__ import annotations

from postbus.errors import ConnectionLost, TransportError
from postbus_kafka.untyped import errors as client

UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
UNENCRYPTED = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE")


def translate(error: BaseException, where: object, reason: BaseException | None = None) -> TransportError:
    """Return the error that a connection raises in place of one of the client's.

    `ConnectionLost` for a broker that cannot be reached or does not answer, `TransportError` for all else (login,
    permission, certificate, a missing topic); ``where`` is the `Settings`, which show themselves without a secret.
    ``reason`` is why the last connection ended, which the client's own timeouts do not tell.
    """
    if reason is not None and isinstance(error, client.RetriableError):
        error = reason
    text = text_of(error)
    match error:
        case TransportError():
            return error
        case client.SaslAuthenticationFailedError():
            return TransportError(f"{where} refuses the user or the password. Correct them in the DSN.")
        case client.UnsupportedSaslMechanismError() | client.IllegalSaslStateError():
            return TransportError(f"{where} does not take this way of logging in. See option 'sasl_mechanism'.")
        case client.AuthorizationError():
            return TransportError(f"{where} denies the user of the DSN a permission: {text}.")
        case client.UnknownTopicOrPartitionError():
            return TransportError(f"{where} does not have a topic, or a partition, any more. Run: postbus setup")
        case client.InvalidReplicationFactorError():
            return TransportError(f"{where} has too few brokers for option 'replication': {text}.")
        case client.UnsupportedCodecError():
            return TransportError(f"A package that decompresses is missing: {text}. See option 'compression'.")
        case client.KafkaConfigurationError() | ValueError():
            return TransportError(f"The client of {where} does not take what it was told: {text}.")
        case client.KafkaError() | OSError() if UNTRUSTED in text:
            return TransportError(f"{where} has a certificate that cannot be verified: {text}. See option 'ssl_ca'.")
        case client.KafkaError() | OSError() if any(word in text for word in UNENCRYPTED):
            return TransportError(f"{where} does not encrypt on this port. Write kafka://, or name the port that does.")
        case client.KafkaError() | OSError() if "UNEXPECTED_EOF" in text:
            return ConnectionLost(
                f"{where} ended a connection that was to be encrypted. Perhaps the port is another one"
            )
        case client.RetriableError() | client.NodeNotReadyError() | client.UnknownBrokerIdError() | OSError():
            return ConnectionLost(f"{where} cannot be reached: {text}")
        case RuntimeError() if "codec" in text:
            return TransportError(f"A package that compresses is missing: {text}. See option 'compression'.")
        case client.KafkaError():
            return TransportError(f"{where} refuses: {text}.")
        case _:
            return TransportError(f"Talking to {where} failed: {type(error).__name__}: {text}.")


def text_of(error: BaseException) -> str:
    """Return what an error says, as one line without a full stop; of a broker's answer, its own words."""
    words = [str(word) for word in error.args if word]
    text = " ".join(" ".join(words).split())
    _, found, message = text.partition("error_message=")  # The client shows the whole answer.
    if found and message[:1] in "'\"":
        text = message[1:].partition(message[0])[0]
    description = getattr(error, "description", None)
    return (text or description or type(error).__name__).removesuffix(".")

"""The client's errors in our own words: what happened, where, and what to do."""

from __future__ import annotations

from typing import Any

from postbus.errors import ConnectionLost, MessageRefused, TransportError
from postbus_sqs.untyped import exceptions as client

GONE = {"QueueDoesNotExist", "NonExistentQueue"}
LOST = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}
"""Why one delivery cannot be settled or kept: it is gone, somebody else's, or was in flight for twelve hours."""
CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "MissingAuthenticationToken",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
CONTENT = {
    "BatchRequestTooLong",
    "InvalidAttributeValue",
    "InvalidMessageContents",
    "InvalidParameterValue",
    "MessageTooLong",
    "MissingParameter",
    "UnsupportedOperation",
}
BUSY = {
    "InternalError",
    "InternalFailure",
    "OverLimit",
    "RequestThrottled",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
}


def names_of(error: BaseException) -> set[str]:
    """Return what an error is called: by the class that the client made for it, and by the code that came."""
    names = {type(error).__name__}
    if isinstance(error, client.ClientError):
        code = _details(error).get("Code", "")
        names |= {code, code.rpartition(".")[2], _details(error).get("QueryErrorCode", "")}
    return names


def translate(error: Exception, where: str) -> TransportError:
    """Return the error that a connection raises in place of one of the client's."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error, client.ClientError):
        return _refused(error, where)
    match error:
        case client.NoCredentialsError() | client.PartialCredentialsError():
            return TransportError(
                f"There are no credentials for {where}. Put them in the DSN, in the environment, or in a profile."
            )
        case client.CredentialRetrievalError() | client.ProfileNotFound() | client.ConfigParseError():
            return TransportError(f"The credentials for {where} cannot be had: {type(error).__name__}.")
        case client.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return TransportError(
                f"{where} has a certificate that cannot be verified. Name its authority in AWS_CA_BUNDLE."
            )
        case client.SSLError() if "WRONG_VERSION_NUMBER" in str(error) or "RECORD_LAYER_FAILURE" in str(error):
            return TransportError(f"{where} does not encrypt on this port. Write sslmode=disable.")
        case client.HTTPClientError() | client.ConnectionError():
            return ConnectionLost(f"{where} cannot be reached: {_kind(error)}")
        case client.BotoCoreError():
            return TransportError(f"{where} cannot be asked: {type(error).__name__}.")
        case _ if type(error).__name__ == "ResponseParserError":
            return TransportError(f"{where} does not speak the protocol of SQS. Check the host and the port.")
        case _:
            return ConnectionLost(f"{where} cannot be asked: {type(error).__name__}")


def _refused(error: Any, where: str) -> TransportError:
    names, status = names_of(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = " ".join(str(_details(error).get("Message", "")).split()).removesuffix(".")
    if text.startswith("<"):  # The page of somebody in between.
        text = f"it answers with status {status}"
    if names & GONE:
        return TransportError(f"There is no {where}. Create it with postbus setup, or correct the DSN.")
    if names & CREDENTIALS:
        # What AWS says of a signature repeats what was signed.
        return TransportError(f"{where} refuses the credentials: {_details(error).get('Code')}. Correct them.")
    if names & DENIED:
        return TransportError(f"{where} denies a permission: {error.operation_name}. Allow it to these credentials.")
    if names & BUSY or status >= 500 or status == 429:
        return ConnectionLost(f"{where} does not work at the moment: {text or _details(error).get('Code')}")
    if names & CONTENT and error.operation_name == "SendMessageBatch":
        return MessageRefused({0: f"{where} refuses a message: {text or _details(error).get('Code')}."})
    return TransportError(f"{where} refuses {error.operation_name}: {text or _details(error).get('Code')}.")


def _details(error: Any) -> dict[str, Any]:
    details: dict[str, Any] = error.response.get("Error", {})
    return details


def _kind(error: BaseException) -> str:
    return {
        "ConnectTimeoutError": "nothing answers",
        "ConnectionClosedError": "the connection was closed",
        "EndpointConnectionError": "nothing listens there",
        "ReadTimeoutError": "no answer came in time",
    }.get(type(error).__name__, type(error).__name__)

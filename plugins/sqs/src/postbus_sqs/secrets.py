"""What botocore logs of its requests for who debugs them, without the credentials that are in there."""

from __future__ import annotations

import logging
import re

_LOGGERS = ("botocore.auth", "botocore.endpoint")
"""Those that show the headers of a request, at DEBUG."""

_SECRET = re.compile(r"(Credential=|x-amz-security-token'?: ?(?:b?')?)[^/'\s]+", re.IGNORECASE)


def hide_credentials() -> None:
    """Keep access keys and tokens out of the log of botocore, wherever they come from."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_mask)  # Once only: it is there already.


def _mask(record: logging.LogRecord) -> bool:
    try:
        text = record.getMessage()
    except Exception:  # A border: what cannot be put together is not shown either.
        return True
    if _SECRET.search(text):
        record.msg, record.args = _SECRET.sub(r"\1***", text), ()
    return True

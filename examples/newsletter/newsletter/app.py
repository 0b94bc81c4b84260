"""The app: where messages go, the one message that there is, and its handler."""

from __future__ import annotations

import os
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate

from newsletter.mailer import Mailer
from postbus import Backoff, Envelope, Postbus, stamps

app = Postbus(
    name="newsletter",
    transports={
        "mail": "${NEWSLETTER_DSN:-sqlite:///newsletter.db}",
        # Not derived from the one above: what failed waits for a person, who wants to search it, and that
        # not every broker can do. So it stays in a database wherever the other messages go.
        "failed": "${NEWSLETTER_FAILED_DSN:-sqlite:///newsletter.db?queue_name=failed}",
    },
    failure_transport="failed",
    retry=Backoff(max_retries=5, delay=0.5),  # A real mail server wants minutes; who watches a demo does not.
)

mailer = Mailer(os.environ.get("NEWSLETTER_SMTP", "127.0.0.1:8025"))


@app.message("newsletter.send", transport="mail")
@dataclass(frozen=True, slots=True)
class SendNewsletter:
    """One edition is to be mailed to one recipient."""

    edition: str
    address: str
    name: str


@app.handler
def send_newsletter(newsletter: SendNewsletter, envelope: Envelope) -> None:
    """Deliver the mail; whatever this raises, Postbus retries or buries the message."""
    mailer.deliver(write_mail(newsletter, envelope))


def write_mail(newsletter: SendNewsletter, envelope: Envelope) -> EmailMessage:
    """Return the mail for a message.

    Its Message-ID is that of the message, which is the same however often it is delivered. So a duplicate
    can be told from a second mail, by a mail server and by the report at the end of the demo.
    """
    message_id = envelope.last(stamps.MessageId)
    retried = envelope.last(stamps.Retried)
    assert message_id is not None, "The app's bus gives every message its id."

    mail = EmailMessage()
    mail["From"] = Address("The Postbus Courier", "courier", "newsletter.example.org")
    mail["To"] = Address(newsletter.name, addr_spec=newsletter.address)
    mail["Subject"] = f"The Postbus Courier, {newsletter.edition}"
    mail["Date"] = formatdate()
    mail["Message-ID"] = f"<{message_id.id}@newsletter.example.org>"
    mail["X-Attempt"] = str(retried.count + 1 if retried is not None else 1)
    mail.set_content(
        f"Dear {newsletter.name},\n\n"
        f"this is {newsletter.edition} of the Postbus Courier. The bus was on time, every\n"
        "letter was on it, and where a door was closed, the driver came back.\n"
    )
    return mail

"""An SMS is sent by a worker, so that nobody waits for the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from postbus import Postbus, Unrecoverable

app = Postbus()  # It reads postbus.toml.


@app.message("sms.notification")
@dataclass(frozen=True)
class SmsNotification:
    """Somebody is to be told something."""

    number: str
    content: str


@app.handler
def send_sms(sms: SmsNotification) -> None:
    """Send it; here stands the call of your gateway. Whatever that raises, the message is tried again."""
    if not sms.number.startswith("+"):
        raise Unrecoverable(f"{sms.number!r} is no number that can be called from anywhere.")
    print(f"To {sms.number}: {sms.content}")

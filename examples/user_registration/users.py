"""Somebody registers: a command, which writes to the database, and an event, of which nobody hears until then."""

from __future__ import annotations

import os
from dataclasses import dataclass
from email.message import EmailMessage
from mailbox import Maildir

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from postbus import Postbus
from postbus_sql import register_engine, stamps
from postbus_sql.transaction import Transaction

engine = create_engine(os.environ.get("USERS_DATABASE", "sqlite:///users.db"))
register_engine("users", engine)
transaction = Transaction(engine)

app = Postbus(
    transports={
        "events": "doctrine://users?queue_name=events",  # A table beside that of the users.
        "failed": "doctrine://users?queue_name=failed",
    },
    buses={
        "commands": {"middleware": [transaction]},
        "events": {"allow_no_handlers": True},
    },
    default_bus="commands",
    failure_transport="failed",
)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(unique=True)


@dataclass(frozen=True)
class RegisterUser:
    """A command: it has one handler, and is handled where it is dispatched."""

    user_id: str
    address: str


@app.message("user.registered", transport="events")
@dataclass(frozen=True)
class UserRegistered:
    """An event: it is sent to whoever wants to know, one or many or none."""

    user_id: str


@app.handler(bus="commands")
def register(command: RegisterUser) -> None:
    """Write both into one transaction: either there is a user, and the event, or neither."""
    session = transaction.session
    session.add(User(id=command.user_id, address=command.address))
    app.dispatch(UserRegistered(command.user_id), stamps.Transaction(session), bus="events")


@app.handler(bus="events")
def send_welcome_mail(event: UserRegistered) -> None:
    """Welcome the user, who is in the database by now."""
    with Session(engine) as session:
        user = session.get_one(User, event.user_id)
    mail = EmailMessage()
    mail["To"] = user.address
    mail["Subject"] = "Welcome"
    mail["Message-ID"] = f"<{user.id}@users.example>"  # The same, should it be delivered a second time.
    mail.set_content("It is good to have you here.")
    Maildir("mail").add(mail)  # Here stands the call of your mail server.

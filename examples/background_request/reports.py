"""Reports that take long: who asks for one gets a number, and can look at any time how far it is."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from sqlalchemy import create_engine, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from postbus import Postbus, Unrecoverable
from postbus.events import Event, MessageBuried
from postbus_sql import register_engine

SECONDS_PER_PAGE = float(os.environ.get("REPORTS_SECONDS_PER_PAGE", "0.5"))

engine = create_engine(os.environ.get("REPORTS_DATABASE", "sqlite:///reports.db"))
register_engine("reports", engine)

app = Postbus(
    transports={
        "reports": "doctrine://reports?queue_name=reports",  # A table beside that of the reports.
        "failed": "doctrine://reports?queue_name=failed",
    },
    failure_transport="failed",
)


class Base(DeclarativeBase):
    pass


class Report(Base):
    """A report, and how far it is: waiting, running, done or failed."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    pages: Mapped[int]
    written: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(default="waiting")


@app.message("report.wanted", transport="reports")
@dataclass(frozen=True)
class WriteReport:
    """A report is to be written."""

    report_id: int


@app.handler
def write_report(message: WriteReport) -> None:
    """Write page after page, from where a worker stopped that has died meanwhile."""
    with Session(engine) as session:
        report = session.get_one(Report, message.report_id)
    note(report.id, state="running")
    for page in range(report.written + 1, report.pages + 1):
        write_page(report, page)
        note(report.id, written=page)
    note(report.id, state="done")


def write_page(report: Report, page: int) -> None:
    """Write a page. This one takes its time, and nobody reads it."""
    if page == 13:
        raise Unrecoverable(f"Report {report.id} has a page 13, which nobody wants to write.")
    time.sleep(SECONDS_PER_PAGE)


def note(report_id: int, **changes: object) -> None:
    """Write down how far a report is, at once, for whoever looks."""
    with engine.begin() as connection:
        connection.execute(update(Report).where(Report.id == report_id).values(**changes))


@app.observe
def note_failure(event: Event) -> None:
    """Say of a report that it has failed, once it is tried no more."""
    if isinstance(event, MessageBuried) and isinstance(event.envelope.message, WriteReport):
        note(event.envelope.message.report_id, state="failed")

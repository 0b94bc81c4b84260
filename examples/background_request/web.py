"""The web application: POST /reports asks for a report, GET /reports/1 tells how far it is."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field
from reports import Report, WriteReport, app, engine
from sqlalchemy.orm import Session

from postbus_sql import stamps

web = FastAPI()


class Wanted(BaseModel):
    pages: int = Field(ge=1, le=100)


@web.post("/reports", status_code=202)
def ask_for_report(wanted: Wanted) -> dict[str, Any]:
    """Write down what is wanted, and dispatch the message, in one transaction: there is never one without the other."""
    with Session(engine) as session, session.begin():
        report = Report(pages=wanted.pages)
        session.add(report)
        session.flush()  # Now it has its number.
        app.dispatch(WriteReport(report.id), stamps.Transaction(session))
        return status_of(report)


@web.get("/reports/{report_id}")
def look_at_report(report_id: int) -> dict[str, Any]:
    """Tell how far it is."""
    with Session(engine) as session:
        report = session.get(Report, report_id)
        if report is None:
            raise HTTPException(404)
        return status_of(report)


def status_of(report: Report) -> dict[str, Any]:
    return {"id": report.id, "state": report.state, "written": report.written, "pages": report.pages}

"""A PDF is wanted, and is made: two messages on one topic exchange, and three consumers that hear what they want to."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import EmailMessage
from mailbox import Maildir
from pathlib import Path

from paper import pdf_of

from postbus import Postbus
from postbus_amqp.stamps import AmqpRouting

PDFS = Path("pdfs")

app = Postbus()


@app.message("pdf.wanted", transport="pdf", stamps=[AmqpRouting("pdf.wanted")])
@dataclass(frozen=True)
class PdfWanted:
    """Somebody wants a text on paper."""

    name: str
    text: str
    address: str


@app.message("pdf.made", transport="pdf", stamps=[AmqpRouting("pdf.made")])
@dataclass(frozen=True)
class PdfMade:
    """It is there, in the folder of PDFs."""

    name: str
    address: str


@app.handler(from_transport="work")
def make_pdf(job: PdfWanted) -> None:
    """Make it, and say so."""
    PDFS.mkdir(exist_ok=True)
    (PDFS / f"{job.name}.pdf").write_bytes(pdf_of(job.text))
    app.dispatch(PdfMade(job.name, job.address))


@app.handler(from_transport="log")
def log(message: PdfWanted | PdfMade) -> None:
    """Note whatever goes on."""
    print(f"{type(message).__name__}: {message.name}")


@app.handler(from_transport="mail")
def send_mail(made: PdfMade) -> None:
    """Send it to whoever wanted it."""
    mail = EmailMessage()
    mail["To"] = made.address
    mail["Subject"] = made.name
    mail.set_content("Here it is.")
    pdf = (PDFS / f"{made.name}.pdf").read_bytes()
    mail.add_attachment(pdf, maintype="application", subtype="pdf", filename=f"{made.name}.pdf")
    Maildir("mail").add(mail)  # Here stands the call of your mail server.

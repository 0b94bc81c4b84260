"""Makes a PDF of one line; in earnest you would take a library for that."""

from __future__ import annotations


def pdf_of(text: str) -> bytes:
    """Return a page with this text."""
    shown = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    content = f"BT /F1 24 Tf 72 720 Td ({shown}) Tj ET"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources 6 0 R >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        "<< /Font << /F1 5 0 R >> >>",
    ]
    pdf, places = "%PDF-1.4\n", []
    for number, item in enumerate(objects, start=1):
        places.append(len(pdf))
        pdf += f"{number} 0 obj\n{item}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    pdf += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    pdf += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{pdf.index('xref')}\n%%EOF\n"
    return pdf.encode("cp1252", "replace")

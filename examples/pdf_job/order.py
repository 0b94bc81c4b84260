"""Asks for a PDF, as your application would: python order.py NAME TEXT ADDRESS."""

from __future__ import annotations

import sys

from pdfs import PdfWanted, app

with app:
    app.dispatch(PdfWanted(*sys.argv[1:4]))

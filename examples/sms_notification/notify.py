"""Dispatches an SMS, as your application would: python notify.py NUMBER TEXT."""

from __future__ import annotations

import sys

from sms import SmsNotification, app

with app:
    app.dispatch(SmsNotification(sys.argv[1], sys.argv[2]))

"""Registers somebody, as your application would: python register.py ADDRESS."""

from __future__ import annotations

import sys
from uuid import uuid4

from sqlalchemy.exc import IntegrityError
from users import RegisterUser, app

address = sys.argv[1]
with app:
    try:
        app.dispatch(RegisterUser(str(uuid4()), address))
    except IntegrityError:
        print(f"{address} is registered already.")
    else:
        print(f"{address} is registered.")

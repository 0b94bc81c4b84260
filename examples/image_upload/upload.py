"""Takes a file in, as your application would: python upload.py FILE."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from images import UPLOADS, ImageUploaded, app

file = Path(sys.argv[1])
UPLOADS.mkdir(exist_ok=True)
shutil.copy(file, UPLOADS)  # First, so that it is there when a worker looks for it.
with app:
    app.dispatch(ImageUploaded(file.name))

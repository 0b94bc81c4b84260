"""The app whose worker `postbus consume` runs, for what its process takes."""

import os

from benchmarks.idle import make_app

app = make_app([os.environ["BENCHMARKED_DSN"]])

#!/bin/sh
# msgspec 0.22.0 and pydantic 2.14.4 write a datetime whose offset from UTC has seconds, as all zones had before the
# railways and Amsterdam until 1937, as another moment: the offset loses its seconds, the local time stays. They do not
# even agree, for msgspec rounds to the nearest minute and pydantic cuts off: 00:00 of +00:19:32 is read as 28 s earlier
# by the one, as 32 s later by the other. Neither says anything. (msgspec's MessagePack, which has no offsets, is right.)
# And msgspec writes a time in a zone of zoneinfo as a time without one.
#
# So on its way through JSON such a moment moves, by up to a minute, and differently in each process that passes it on.
#
# Needs python3 (3.11 or newer) with venv, and pip's package source. Takes about 10 s. Exits with 0 if it is as said.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check msgspec==0.22.0 pydantic==2.14.4 tzdata
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from datetime import datetime, time, timedelta, timezone
from importlib.metadata import version
from zoneinfo import ZoneInfo

import msgspec
import pydantic

for name in ("msgspec", "pydantic"):
    print(name, version(name))
adapter = pydantic.TypeAdapter(datetime)
moved = []
for moment in (
    datetime(1930, 1, 1, tzinfo=timezone(timedelta(minutes=19, seconds=32))),
    datetime(1930, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam")),
):
    print(moment.isoformat())
    written = msgspec.json.encode(moment)
    moved.append((msgspec.json.decode(written, type=datetime) - moment).total_seconds())
    print("  msgspec, JSON:       ", written.decode(), f"moved by {moved[-1]:g} s")
    written = adapter.dump_json(moment)
    moved.append((adapter.validate_json(written) - moment).total_seconds())
    print("  pydantic:            ", written.decode(), f"moved by {moved[-1]:g} s")
    packed = msgspec.msgpack.encode(moment)
    moved.append((msgspec.msgpack.decode(packed, type=datetime) - moment).total_seconds())
    print(f"  msgspec, MessagePack:  moved by {moved[-1]:g} s")
berlin = msgspec.json.encode(time(12, tzinfo=ZoneInfo("Europe/Berlin"))).decode()
print("12:00 in Europe/Berlin, by msgspec:", berlin)
sys.exit(0 if moved == [-28, 32, 0] * 2 and berlin == '"12:00:00"' else "It is not as it was.")
PYTHON

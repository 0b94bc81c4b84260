"""One message for three consumers: each has a queue of its own on one direct exchange of RabbitMQ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from postbus import Backoff, Postbus

BROKER = os.environ.get("SHOTS_BROKER", "amqp://guest:guest@localhost:5672/%2f")
EXCHANGE = os.environ.get("SHOTS_EXCHANGE", "shots")
FOLDER = Path(os.environ.get("SHOTS_FOLDER", "."))

CONSUMERS = ("work", "log", "mail")


def transport(*consumers: str) -> dict[str, object]:
    """Return a transport on the exchange, with the queues of these consumers, all bound by the same key."""
    return {
        "dsn": f"{BROKER}/{EXCHANGE}",
        "options": {
            "exchange": {"type": "direct", "default_publish_routing_key": "generate_shot"},
            "queues": {f"{EXCHANGE}.{consumer}": {"binding_keys": ["generate_shot"]} for consumer in consumers},
        },
    }


app = Postbus(
    name="shots",
    transports={
        # Whoever dispatches declares all queues, so that nobody misses a shot because it was not started yet.
        "shots": transport(*CONSUMERS),
        **{consumer: transport(consumer) for consumer in CONSUMERS},
        "failed": f"{BROKER}/{EXCHANGE}.failed",
    },
    failure_transport="failed",
    retry=Backoff(max_retries=10, delay=0.2, factor=1.5),
)


@app.message("generate_shot", transport="shots")
@dataclass(frozen=True, slots=True)
class GenerateShot:
    """A shot of a film is to be generated."""

    scene: int
    prompt: str


@app.handler(from_transport="work")
def generate(shot: GenerateShot) -> None:
    """Generate the shot. This one takes no graphics card, and ends up in a text file."""
    (FOLDER / f"scene-{shot.scene}.txt").write_text(f"[{shot.prompt}]\n", encoding="utf-8")


@app.handler(from_transport="log")
def log(shot: GenerateShot) -> None:
    """Note that it was asked for."""
    with (FOLDER / "shots.log").open("a", encoding="utf-8") as file:
        file.write(f"scene {shot.scene}: {shot.prompt}\n")


@app.handler(from_transport="mail")
def mail(shot: GenerateShot) -> None:
    """Tell the director; while there is no folder ``outbox``, this fails, and only this is tried again."""
    (FOLDER / "outbox" / f"scene-{shot.scene}.eml").write_text(
        f"To: director@film.example\nSubject: Scene {shot.scene}\n\n{shot.prompt}\n", encoding="utf-8"
    )

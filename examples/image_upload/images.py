"""One message, two handlers, each with a transport of its own: the slow one keeps the quick one waiting for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from postbus import Postbus

UPLOADS, THUMBNAILS = Path("uploads"), Path("thumbnails")

app = Postbus()


@app.message("image.uploaded")
@dataclass(frozen=True)
class ImageUploaded:
    """A file lies in the folder of uploads; the message has its name, and not its bytes."""

    name: str


@app.handler(from_transport="image_transport")
def make_thumbnail(image: ImageUploaded) -> None:
    """Make it small. It takes long, and if the file is no image it fails."""
    THUMBNAILS.mkdir(exist_ok=True)
    with Image.open(UPLOADS / image.name) as picture:
        picture.thumbnail((200, 200))
        picture.save(THUMBNAILS / image.name)


@app.handler(from_transport="async_priority_normal")
def tell_followers(image: ImageUploaded) -> None:
    """Tell whoever waits for it."""
    print(f"There is a new image: {image.name}")

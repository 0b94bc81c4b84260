"""Text that came from elsewhere, as it may be shown: on a terminal, in a log, to whoever reads either."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a text in which all that could steer a terminal or an editor is written out; lines stay lines.

    That is control characters, U+0080 to U+009F among them, those that turn the direction of writing, and the
    line separators that not everybody knows.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in text)


def one_line(text: str, most: int | None = None) -> str:
    """Return a text as a single line, printable, and of so many characters at most, so that it can forge no other."""
    text = printable(" ".join(text.split()))
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def sentence(text: str) -> str:
    """Return a text with a full stop at its end, where it has not come with one."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."

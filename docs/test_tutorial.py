"""The tutorial, typed word by word into an empty folder, shows what it says."""

from pathlib import Path

from tests.documentation.reader import Reader

TUTORIAL = Path(__file__).parent / "tutorial.md"


def test_the_tutorial(tmp_path, redis_plain):
    """From the first message to the commands that run in production; the broker is the test's own."""
    text = TUTORIAL.read_text(encoding="utf-8")
    with Reader(tmp_path, {"redis://localhost:6379/orders": f"{redis_plain.dsn}/the-tutorial"}) as reader:
        reader.follow(text)

    assert text.count("```text") == reader.outputs
    assert '"waiting": 0' in reader.said

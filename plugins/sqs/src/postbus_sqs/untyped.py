"""What this plugin takes from botocore, the core of boto3, without types: it brings none that a checker would find."""

from typing import TYPE_CHECKING, Any

__all__ = ["Config", "Session", "create_loader", "exceptions"]

if not TYPE_CHECKING:
    from botocore import exceptions
    from botocore.config import Config
    from botocore.loaders import create_loader
    from botocore.session import Session

Config: Any
Session: Any
create_loader: Any
exceptions: Any

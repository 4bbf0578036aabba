"""The command ``spare``."""

from marketplace.cli.main import app

__all__ = ["app"]

"""The whole market on this one machine, from an idle device to a paid provider, in front of your eyes."""

from marketplace.demo.run import run

__all__ = ["run"]

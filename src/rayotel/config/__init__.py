"""Settings: what they mean, where they come from, and that they fit one another."""

from rayotel.config.settings import Description, Settings, descriptions
from rayotel.config.sources import load

__all__ = ["Description", "Settings", "descriptions", "load"]

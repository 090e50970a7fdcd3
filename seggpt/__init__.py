"""SegGPT as a service, seen from Python: `from seggpt import Client`."""

from app.client import *  # noqa: F403 - the client's public names are this package's
from app.client import __all__ as __all__

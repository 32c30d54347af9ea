"""The pocket web: a small web with planted cases and their truth, for the demo and the tests.

``build(folder)`` writes it, ``serve(folder)`` answers for all its hosts on one loopback port.
"""

from curation.pocket_web.server import PocketServer, serve
from curation.pocket_web.truth import Case, TileTruth, Truth
from curation.pocket_web.writing import build

__all__ = ["Case", "PocketServer", "TileTruth", "Truth", "build", "serve"]

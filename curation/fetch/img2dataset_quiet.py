"""img2dataset, imported without a word and without a request."""

import os
import warnings
from types import ModuleType


def import_img2dataset() -> tuple[ModuleType, ModuleType]:
    """Its ``downloader`` and ``resizer`` modules; the first call takes seconds.

    Its dependency albumentations asks the network for a newer version of itself when imported, unless told not to.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from img2dataset import downloader, resizer
    return downloader, resizer

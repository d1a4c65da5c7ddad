"""Shapes in signatures are checked in every test, and converted data do not go to the user's cache."""

import os
import tempfile

from jaxtyping import install_import_hook

install_import_hook("pygschnet", "beartype.beartype")

_cache = tempfile.TemporaryDirectory(prefix="pygschnet-tests-")
os.environ["PYGSCHNET_CACHE"] = _cache.name

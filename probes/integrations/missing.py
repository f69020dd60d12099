"""What is said where the framework of an integration cannot be imported."""

from __future__ import annotations

from ...diagnostics.errors import MissingPackageError


def missing(package: str, extra: str, error: ImportError) -> MissingPackageError:
    """Returns the error that says what to install."""
    return MissingPackageError(
        f"This integration needs {package} ({error}): python -m pip install 'gradpath[{extra}]'."
    )

"""What can be wrong with a dataset. The messages go to the client; they name no path of the server's.

DatasetError (a ValueError)      what is in it, or what it is called
DatasetTooLargeError           it, or what it unpacks to, is over a limit
DatasetNotFoundError           there is nothing at this path below the data root
DatasetStorageError              the disk is full, or cannot be written
"""

from __future__ import annotations


class DatasetError(ValueError):
    """It is not what it has to be; the message says what, and where in it.

    `field` is what of a request is to blame: `name`, `format` or `path`; None: the content.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DatasetTooLargeError(DatasetError):
    """It is over a limit, or what it unpacks to is."""


class DatasetNotFoundError(DatasetError):
    """There is nothing at this path."""


class DatasetStorageError(Exception):
    """It cannot be stored here. Nothing of it was kept."""

    def __init__(self, message: str, code: str = "storage_failed") -> None:
        super().__init__(message)
        self.code = code

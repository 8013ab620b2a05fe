"""python-tuf's errors as ours; does not load its client."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from tuf.api.exceptions import DownloadError, DownloadLengthMismatchError, ExpiredMetadataError, RepositoryError

from roadloop_models.errors import RetryLaterError, TrustError


@contextmanager
def tuf_errors(refused: type[TrustError], now: datetime) -> Iterator[None]:
    """Turn the client's errors into `refused` or RetryLaterError."""
    try:
        yield
    except ExpiredMetadataError as error:
        raise refused(
            f"{error} at {now:%Y-%m-%d %H:%M} UTC: the cloud has not renewed it, or the vehicle's clock is wrong"
        ) from error
    except (RepositoryError, DownloadLengthMismatchError) as error:
        raise refused(str(error)) from error
    except DownloadError as error:  # among them: the repository has no such file
        raise RetryLaterError(str(error)) from error

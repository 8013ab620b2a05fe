"""The one refusal that others than trust.py must know: importing that loads python-tuf and its cryptography."""

from roadloop_models.errors import TrustError


class MetadataError(TrustError):
    """What is signed cannot be relied on today; the release itself may be sound."""

"""The catalogue of errors, grouped by what the caller does about them.

Every error has a stable `code` (what is reported over the wire and printed by `--json`) and an `exit_code` for the
command line: 2 where the input must change, 1 where the same input may work later or something failed.
"""

from typing import ClassVar


class RoadloopError(Exception):
    """Base of all errors that Roadloop raises on purpose. The message names the file, the field and the way out."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1


# Refuse: the same input will be refused again.


class BadInputError(RoadloopError):
    """The input is wrong: a person must change it."""

    code = "bad-input"
    exit_code = 2


class ConfigError(BadInputError):
    """A configuration file or option is missing, unknown or out of range."""

    code = "config-invalid"


class DataError(BadInputError):
    """A data file is missing, truncated or of the wrong layout."""

    code = "data-invalid"


class ModelInputError(BadInputError):
    """An input tensor has a shape or dtype that the model does not take."""

    code = "model-input-invalid"


class BundleError(BadInputError):
    """A bundle is incomplete, tampered with or malformed."""

    code = "bundle-invalid"


class VariantMissingError(BundleError):
    """The bundle has no weights for the runtime and precision asked for."""

    code = "variant-missing"


class RuntimeMissingError(BadInputError):
    """The runtime that a variant needs is not installed, or cannot be constructed."""

    code = "runtime-missing"


class MessageError(BadInputError):
    """A message or topic is oversize, malformed or outside the contract."""

    code = "message-invalid"


class GoldenMismatchError(BadInputError):
    """A model does not reproduce its golden vectors on this machine."""

    code = "golden-mismatch"


class LatencyError(BadInputError):
    """A release needs too much time for an inference on this vehicle."""

    code = "too-slow"


class DisagreementError(BadInputError):
    """A release that ran in the shadow decided too often otherwise than what runs."""

    code = "disagreement"


class ConsentRefusedError(BadInputError):
    """Somebody at the vehicle has said no to this release."""

    code = "consent-refused"


class TrustError(BadInputError):
    """A signature, hash, version or expiry check failed: the release is refused."""

    code = "trust-refused"


class ConflictError(BadInputError):
    """What is asked for contradicts what exists (a duplicate id, a rollout that collides with another)."""

    code = "conflict"


class NotFoundError(BadInputError):
    """No vehicle, model, release, rollout or job has that name."""

    code = "not-found"


# Retry: nothing is wrong with the input.


class RetryLaterError(RoadloopError):
    """The peer, the network or a resource is not available now."""

    code = "retry-later"


class FetchInterruptedError(RetryLaterError):
    """A download stopped before its end; what arrived is kept and resumed."""

    code = "fetch-interrupted"


class LinkMeteredError(RetryLaterError):
    """The policy keeps files from a metered link, and there is no other now."""

    code = "link-metered"


class DiskFullError(RetryLaterError):
    """There is not enough room on disk; nothing was changed."""

    code = "disk-full"


# Give up: the operation ended without its result.


class FailedError(RoadloopError):
    """An operation ended without its result."""

    code = "failed"


class CompanionError(FailedError):
    """A release is not at fault, but one that it was to be switched together with is."""

    code = "companion-failed"


class HealthError(FailedError):
    """A version on trial failed its health window."""

    code = "health-failed"

"""Both must agree: the director, which names releases for the slots of this vehicle, and the image repository.

Who steals the director's online keys can choose among what was released, and no further back than what the slot still
has: below the newest release that it has confirmed only those on its disk are taken, which is what rolling back means.
What is older comes back under a new number (`roadloop models publish --again`).
"""

from collections.abc import Callable
from dataclasses import replace

from roadloop_agent.update.director import Assignment
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.state import SlotState, same_release
from roadloop_agent.update.trust import SignedTargets
from roadloop_models.contract.messages import ReleaseRef


class Acceptance:
    """`director` and `images` ask the two repositories; `stored` is what the store remembers of a slot."""

    def __init__(
        self,
        director: Callable[[], Assignment],
        images: Callable[[], SignedTargets],
        stored: Callable[[str], SlotState],
    ) -> None:
        self._director = director
        self._images = images
        self._stored = stored

    def __call__(self, slot: str, ref: ReleaseRef, shadow: bool) -> SignedTargets:
        """What is signed, where both agree that `slot` may have `ref`; the images are asked last.

        Raises MetadataError where they do not agree, and what either of them raises.
        """
        named = self._director().allows(slot, ref, shadow=shadow)
        if not shadow:
            check_counter(ref, self._stored(slot))
        signed = self._images()
        manifest = signed.manifest(ref)
        if (manifest.length, manifest.hashes.get("sha256")) != (named.length, named.sha256):
            raise MetadataError(f"{manifest.path}: the director names another length or SHA-256 than is signed")
        return replace(signed, keys=named.keys)


def check_counter(ref: ReleaseRef, state: SlotState) -> None:
    """Raises MetadataError where `ref` is older than what the slot has come to, and not on its disk any more."""
    proved = [each.release for each in state.refs if each.task == ref.task and each != state.trial]
    newest = max(proved, default=0)
    if ref.release < newest and not any(same_release(each, ref) for each in state.refs):
        raise MetadataError(
            f"release {ref.release} of {ref.task}: release {newest} was confirmed before, and only what is still on "
            "disk is gone back to; publish it again under a new number"
        )

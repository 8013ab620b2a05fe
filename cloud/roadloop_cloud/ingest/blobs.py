"""Captured items: blocks are gathered in the database, whole items lie in a folder under their SHA-256."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from roadloop_cloud.files import sync_directory
from roadloop_cloud.ingest.consumer import BlobPiece
from roadloop_cloud.store.base import insert_or_ignore
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import BlobPart, Capture
from roadloop_models.errors import MessageError

STALE_AFTER = timedelta(days=30)


class BlobFolder:
    """A content-addressed folder: a file that is there is whole, and has the hash that it is called by."""

    def __init__(self, root: Path) -> None:
        """`root` is made when the first item comes."""
        self._root = root

    def path(self, sha256: str) -> Path:
        """Where an item lies, or will."""
        return self._root / sha256[:2] / sha256

    def keep(self, session: Session, piece: BlobPiece) -> None:
        """Take one block. With the last one the item is written, synced and recorded.

        Raises MessageError where the blocks together are not what their hash says; they are dropped then.
        """
        item = piece.block.item
        mine = (BlobPart.vehicle == piece.vehicle, BlobPart.sha256 == item.sha256)
        whole = self.path(item.sha256).exists()
        if not whole:
            part = {"vehicle": piece.vehicle, "sha256": item.sha256, "n": piece.n, "data": piece.block.data}
            insert_or_ignore(session, BlobPart, [{**part, "received": now_utc()}])
            if session.scalar(select(func.count()).where(*mine)) != piece.blocks:
                return
            whole = self._assemble(session, piece)
        session.execute(delete(BlobPart).where(*mine))
        if not whole:
            raise MessageError(f"blob {item.sha256}: its {piece.blocks} blocks have another hash; dropped")
        insert_or_ignore(session, Capture, [_capture(piece)])

    def discard_stale(self, session: Session) -> None:
        """Drop blocks of items whose other blocks did not come for 30 days: the vehicle gave them up."""
        session.execute(delete(BlobPart).where(BlobPart.received < now_utc() - STALE_AFTER))

    def _assemble(self, session: Session, piece: BlobPiece) -> bool:
        target = self.path(piece.block.item.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{piece.vehicle}.{os.getpid()}")
        blocks = select(BlobPart.data).where(
            BlobPart.vehicle == piece.vehicle, BlobPart.sha256 == piece.block.item.sha256
        )
        digest = hashlib.sha256()
        try:
            with temporary.open("wb") as file:
                for data in session.scalars(blocks.order_by(BlobPart.n).execution_options(yield_per=16)):
                    digest.update(data)
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() != piece.block.item.sha256:
                return False
            temporary.replace(target)
            sync_directory(target.parent)
            sync_directory(target.parent.parent)
            return True
        finally:
            temporary.unlink(missing_ok=True)


def _capture(piece: BlobPiece) -> dict[str, object]:
    item = piece.block.item
    return {
        "vehicle": piece.vehicle,
        "boot": piece.block.boot,
        "about_stream": item.about_stream,
        "about_seq": item.about_seq,
        "sha256": item.sha256,
        "size_bytes": item.size_bytes,
        "media_type": item.media_type,
        "task": item.task,
        "t_ms": item.t_ms,
        "campaign": item.campaign,
        "received": now_utc(),
    }

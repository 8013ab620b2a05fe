"""Drive's end of the pipe in memory: takes so many messages, and says what it took."""

import msgspec

from roadloop_agent.ipc import FromDrive


class FakePipe:
    """`room`: how many more messages it takes."""

    def __init__(self, room: int = 10**6) -> None:
        self.room = room
        self._payloads: list[bytes] = []
        self._decoder = msgspec.msgpack.Decoder(FromDrive)

    def try_send(self, payload: bytes) -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self._payloads.append(payload)
        return True

    @property
    def messages(self) -> list[FromDrive]:
        return [self._decoder.decode(payload) for payload in self._payloads]

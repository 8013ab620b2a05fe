"""A vehicle that does nothing but fetch: the real session, connection and fetcher, without what surrounds them."""

import queue
import random
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from roadloop_agent.link.budget import Traffic
from roadloop_agent.link.mqtt import Connected, Disconnected, Endpoint, MqttEvent, MqttLink, Received, tls_context
from roadloop_agent.link.session import (
    SUBSCRIPTIONS,
    Connect,
    Disconnect,
    Publish,
    Session,
    SessionLimits,
    Subscribe,
    Unsubscribe,
)
from roadloop_agent.link.spool import Held
from roadloop_agent.update.fetch import BlockFetcher
from roadloop_cloud.workspace import IdentityFiles
from roadloop_models.contract import channels
from roadloop_models.contract.channels import parse_topic
from roadloop_models.contract.codec import decode
from roadloop_models.contract.messages import FetchRequest, FileBlock, LostRange


class _Nothing:
    """A spool that never has anything."""

    def pending(self, limit: int, skip: Collection[int] = (), highlights_only: bool = False) -> list[Held]:
        return []

    def lost(self, limit: int = 256) -> list[LostRange]:
        return []


@dataclass(frozen=True)
class _NoLimits:
    bytes_per_day: int = 0
    sends: str = "all"


class LinkedFetcher:
    """Connected while the block lasts. `blocks` and `blocks_for_all` count what came on each file channel."""

    def __init__(self, vehicle: str, port: int, identity: IdentityFiles, *, hears: bool = True) -> None:
        self._events: queue.SimpleQueue[MqttEvent | FetchRequest | str | None] = queue.SimpleQueue()
        self.connections = 0
        self.blocks = self.blocks_for_all = 0
        limits = _NoLimits()
        self._session = Session(
            vehicle,
            "bench",
            backlog=_Nothing(),
            random=random.random,
            traffic=Traffic({"metered": limits, "unmetered": limits}, {}),  # type: ignore[dict-item]
            limits=SessionLimits(reconnect_min_s=0.2, reconnect_max_s=0.5),
        )
        self._transport = MqttLink(
            Endpoint("127.0.0.1", port, vehicle, 30),
            tls_context(identity.ca, identity.certificate, identity.key),
            [(channel.subscription(vehicle), channel.qos) for channel in SUBSCRIPTIONS],
            self._events.put,
        )
        self.fetcher = BlockFetcher(self._events.put, time.monotonic, hear=self._hear if hears else None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._own, daemon=True)

    def __enter__(self) -> "LinkedFetcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)
        self._transport.drop()

    def _hear(self, sha256: str | None) -> None:
        self._events.put(sha256)

    def _own(self) -> None:
        while not self._stop.is_set():
            now_s = time.monotonic()
            for action in self._session.poll(now_s):
                if isinstance(action, Publish):
                    self._transport.publish(action)
                elif isinstance(action, Connect):
                    self._transport.connect(self._session.will())
                elif isinstance(action, Subscribe):
                    self._transport.subscribe(action.pattern)
                elif isinstance(action, Unsubscribe):
                    self._transport.unsubscribe(action.pattern)
                elif isinstance(action, Disconnect):
                    self._transport.drop()
                    self._session.disconnected(action.reason, now_s)
            try:
                self._take(self._events.get(timeout=min(0.2, self._session.next_poll_s(now_s))))
            except queue.Empty:
                continue

    def _take(self, event: MqttEvent | FetchRequest | str | None) -> None:
        now_s = time.monotonic()
        if isinstance(event, FetchRequest):
            self._session.send(channels.FETCH, event)
        elif event is None or isinstance(event, str):
            self._session.hear(event)
        elif isinstance(event, Connected):
            self.connections += 1
            self._session.connected(event.receive_maximum, event.session_present, now_s)
            self.fetcher.reconnected()
        elif isinstance(event, Disconnected):
            self._session.disconnected(event.reason, now_s)
        elif isinstance(event, Received):
            self._session.received(event.topic, event.payload)
            address = parse_topic(event.topic)
            if address.channel in (channels.FILE, channels.FLEET_FILE):
                self.blocks += address.channel is channels.FILE
                self.blocks_for_all += address.channel is channels.FLEET_FILE
                block = decode(address.channel, event.payload, FileBlock)
                self.fetcher.deliver(address.parts["sha256"], int(address.parts["n"]), block)
        else:
            self._session.acked(event.token, now_s)

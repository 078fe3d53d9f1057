"""A thread that takes sensor messages instead of the executor.

For each message rclpy's executors gather all entities of a node anew, in Python; a wait set of a
few subscriptions needs none of that. An executor that waits for the events of a subscription (QoS,
lost messages) is woken by its messages too, so the thread looks at these events as well, once a
second. `benchmark/listening.py` measures what it brings.
"""

import inspect
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.event_handler import EventHandler
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.subscription import Subscription

OnError = Callable[[Exception], None]

LOOK_PERIOD_S = 0.1  # at whether a subscription was destroyed or the context shut down
IN_A_ROW = 20  # messages of one subscription before others have their turn
PAUSE_S = 0.01  # between waits, so that several messages share the cost of one
EVENTS_PERIOD_S = 1.0


class SensorThread(CallbackGroup):
    """A callback group whose subscriptions one thread serves, in turn, instead of an executor.

    Give it to `Node.create_subscription`.
    `on_messages` is called after messages were taken, `on_error` with what a callback raises.
    """

    def __init__(
        self, context: Context, on_error: OnError, on_messages: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__()
        self._context, self._on_error, self._on_messages = context, on_error, on_messages
        self._lock = threading.Lock()
        self._subscriptions: dict[Subscription[Any], int] = {}  # what their callbacks take
        self._events: list[EventHandler] = []
        self._closed = False
        assert context.handle is not None
        with context.handle:
            self._wake = _rclpy.GuardCondition(context.handle)
        self._thread = threading.Thread(target=self._run, name="gld_sensors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; messages that come later are not taken."""
        self._closed = True
        self.wake()
        self._thread.join()
        self._wake.destroy_when_not_in_use()

    def wake(self) -> None:
        """Have subscriptions looked through now: one was destroyed."""
        with self._wake:
            self._wake.trigger_guard_condition()

    # -- what rclpy asks of a callback group ------------------------------------------------------

    def add_entity(self, entity: Any) -> None:
        """Take a subscription's messages, or look at its events, from now on."""
        super().add_entity(entity)
        if isinstance(entity, EventHandler):
            with self._lock:
                self._events.append(entity)
        elif isinstance(entity, Subscription):
            arguments = _required_arguments(entity.callback)
            with self._lock:
                self._subscriptions[entity] = arguments
            self.wake()

    def can_execute(self, entity: Any) -> bool:
        """Keep subscriptions and their events from executors."""
        return not isinstance(entity, (Subscription, EventHandler))

    def beginning_execution(self, entity: Any) -> bool:
        """Let executors run anything else, at any time."""
        return self.can_execute(entity)

    def ending_execution(self, entity: Any) -> None:
        """Nothing waits for an end."""

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        look_s = time.monotonic() + EVENTS_PERIOD_S
        while not self._closed and self._context.ok():
            try:
                if time.monotonic() > look_s:
                    self._look_at_events()
                    look_s = time.monotonic() + EVENTS_PERIOD_S
                with ExitStack() as held:
                    taken = [self._take(*ready) for ready in self._wait(held)]
            except (InvalidHandle, RCLError):
                time.sleep(LOOK_PERIOD_S)  # the context is shutting down, or a handle went
                continue
            if any(taken):
                self._call(self._on_messages)
                time.sleep(PAUSE_S)

    def _look_at_events(self) -> None:
        """Give the events that have come to their callbacks."""
        with self._lock:
            events = list(self._events)
        with ExitStack() as held:
            alive = []
            for event in events:
                try:
                    held.enter_context(event)
                    alive.append(event)
                except InvalidHandle:
                    with self._lock:
                        self._events.remove(event)
            context = self._context.handle
            assert context is not None
            held.enter_context(context)
            wait_set = _rclpy.WaitSet(0, 0, 0, 0, 0, len(alive), context)
            wait_set.clear_entities()
            for event in alive:
                event.add_to_wait_set(wait_set)
            wait_set.wait(0)
            for event in alive:
                if event.is_ready(wait_set):
                    data = event.take_data()
                    if data is not None:
                        self._call(event.callback, data)

    def _wait(self, held: ExitStack) -> list[tuple[Subscription[Any], int]]:
        """Return the subscriptions that have messages; all are kept from destruction in `held`."""
        with self._lock:
            subscriptions = list(self._subscriptions.items())
        alive = []
        for subscription, arguments in subscriptions:
            try:
                held.enter_context(subscription.handle)
                alive.append((subscription, arguments))
            except InvalidHandle:
                with self._lock:
                    del self._subscriptions[subscription]
        context = self._context.handle
        assert context is not None
        held.enter_context(context)
        held.enter_context(self._wake)
        wait_set = _rclpy.WaitSet(len(alive), 1, 0, 0, 0, 0, context)
        wait_set.clear_entities()
        for subscription, _ in alive:
            wait_set.add_subscription(subscription.handle)
        wait_set.add_guard_condition(self._wake)
        wait_set.wait(int(LOOK_PERIOD_S * 1e9))
        ready = set(wait_set.get_ready_entities("subscription"))
        return [entry for entry in alive if entry[0].handle.pointer in ready]

    def _take(self, subscription: Subscription[Any], arguments: int) -> int:
        """Give what has come to the callback, and return how many messages that were."""
        for number in range(IN_A_ROW):
            try:
                message = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            except (InvalidHandle, RCLError):
                raise
            except Exception as error:  # noqa: BLE001 - what cannot be a Python message
                self._on_error(error)
                continue
            if message is None or self._closed:
                return number
            self._call(subscription.callback, *message[:arguments])
        return IN_A_ROW

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a callback raises
            self._on_error(error)


def _required_arguments(callback: Callable[..., Any]) -> int:
    parameters = inspect.signature(callback).parameters.values()
    return sum(parameter.default is parameter.empty for parameter in parameters)

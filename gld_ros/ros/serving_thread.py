"""A thread that serves some entities of a node instead of the executor.

For each message rclpy's executors gather all entities of a node anew, in Python; a wait set of a
few needs none of that. An executor that waits for the events of a subscription (QoS, lost messages)
is woken by its messages too, so the thread looks at these events itself, once a second.
`benchmark/listening.py` measures what it brings. What takes long to become Python objects (a goal
with a hundred thousand targets) also keeps others waiting less.
"""

import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.event_handler import EventHandler
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities, Waitable

OnError = Callable[[Exception], None]

LOOK_PERIOD_S = 0.1  # at whether an entity was destroyed or the context shut down
IN_A_ROW = 20  # messages of one subscription before others have their turn
PAUSE_S = 0.01  # between waits, so that several messages share the cost of one
EVENTS_PERIOD_S = 1.0


class ServingThread(CallbackGroup):
    """A callback group that one thread serves, in turn, instead of an executor.

    For subscriptions and waitables (an action server) whose callbacks are plain functions.
    `on_messages` is called after messages were taken, `on_error` with what a callback raises.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        on_error: OnError,
        on_messages: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._context, self._on_error, self._on_messages = context, on_error, on_messages
        self._lock = threading.Lock()
        self._subscriptions: dict[Subscription[Any], int] = {}  # what their callbacks take
        self._waitables: list[Waitable[Any]] = []
        self._events: list[EventHandler] = []
        self._closed = False
        assert context.handle is not None
        with context.handle:
            self._wake = _rclpy.GuardCondition(context.handle)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to serve what the group has, and what it gets later."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; what comes later is not taken."""
        self._closed = True
        self.wake()
        self._thread.join()
        self._wake.destroy_when_not_in_use()

    def wake(self) -> None:
        """Have entities looked through now: one was destroyed."""
        with self._wake:
            self._wake.trigger_guard_condition()

    # -- what rclpy asks of a callback group ------------------------------------------------------

    def add_entity(self, entity: Any) -> None:
        """Serve a subscription, its events or a waitable from now on."""
        super().add_entity(entity)
        with self._lock:
            if isinstance(entity, Subscription):
                self._subscriptions[entity] = _required_arguments(entity.callback)
            elif isinstance(entity, EventHandler):
                self._events.append(entity)
            elif isinstance(entity, Waitable) and entity not in self._waitables:
                self._waitables.append(entity)  # an action server comes twice
        self.wake()

    def can_execute(self, entity: Any) -> bool:
        """Keep from executors what the thread serves."""
        return not isinstance(entity, (Subscription, Waitable))

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
                if self._events and time.monotonic() > look_s:
                    look_s = time.monotonic() + EVENTS_PERIOD_S
                    with ExitStack() as held:
                        self._look_at_events(held)
                with ExitStack() as held:
                    ready = self._wait(held)
                    taken = [self._take(*subscription) for subscription in ready.subscriptions]
                    for waitable in ready.waitables:
                        self._serve(waitable)
            except (InvalidHandle, RCLError) as error:
                # A handle went in between, or the context is shutting down.
                if isinstance(error, RCLError) and not self._closed and self._context.ok():
                    self._on_error(error)
                time.sleep(LOOK_PERIOD_S)
                continue
            except Exception as error:  # noqa: BLE001 - nothing may end the thread
                self._on_error(error)
                time.sleep(LOOK_PERIOD_S)
                continue
            if any(taken):
                self._call(self._on_messages)
                time.sleep(PAUSE_S)

    def _wait(self, held: ExitStack) -> "_Ready":
        """Return what has something to take; all is kept from destruction in `held`."""
        with self._lock:
            subscriptions, waitables = list(self._subscriptions.items()), list(self._waitables)
        alive = _Ready()
        for subscription, arguments in subscriptions:
            if self._hold(held, subscription.handle):
                alive.subscriptions.append((subscription, arguments))
            else:
                with self._lock:
                    del self._subscriptions[subscription]
        alive.waitables = self._hold_all(held, waitables, self._waitables)
        needed = NumberOfEntities(num_subs=len(alive.subscriptions), num_gcs=1)
        for waitable in alive.waitables:
            needed += waitable.get_num_entities()
        wait_set = self._wait_set(held, needed)
        held.enter_context(self._wake)
        for subscription, _ in alive.subscriptions:
            wait_set.add_subscription(subscription.handle)
        wait_set.add_guard_condition(self._wake)
        for waitable in alive.waitables:
            waitable.add_to_wait_set(wait_set)
        wait_set.wait(int(LOOK_PERIOD_S * 1e9))
        ready = set(wait_set.get_ready_entities("subscription"))
        return _Ready(
            [entry for entry in alive.subscriptions if entry[0].handle.pointer in ready],
            [waitable for waitable in alive.waitables if waitable.is_ready(wait_set)],
        )

    def _look_at_events(self, held: ExitStack) -> None:
        """Give the events that have come to their callbacks."""
        with self._lock:
            events = list(self._events)
        alive = self._hold_all(held, events, self._events)
        if not alive:
            return  # an empty wait set cannot be waited for
        wait_set = self._wait_set(held, NumberOfEntities(num_events=len(alive)))
        for event in alive:
            event.add_to_wait_set(wait_set)
        wait_set.wait(0)
        for event in alive:
            if event.is_ready(wait_set):
                self._serve(event)

    def _hold_all(self, held: ExitStack, entities: list[Any], kept: list[Any]) -> list[Any]:
        """Return the entities that live; `kept` forgets the others."""
        alive = []
        for entity in entities:
            try:
                there = self._hold(held, entity)
            except AttributeError:
                continue  # it joins its group before it is complete; the next look takes it
            if there:
                alive.append(entity)
            else:
                with self._lock:
                    kept.remove(entity)
        return alive

    def _hold(self, held: ExitStack, entity: Any) -> bool:
        """Keep an entity from destruction; returns whether it lives."""
        try:
            held.enter_context(entity)
        except InvalidHandle:
            return False
        return True

    def _wait_set(self, held: ExitStack, needed: NumberOfEntities) -> Any:
        context = self._context.handle
        assert context is not None
        held.enter_context(context)
        wait_set = _rclpy.WaitSet(
            needed.num_subscriptions,
            needed.num_guard_conditions,
            needed.num_timers,
            needed.num_clients,
            needed.num_services,
            needed.num_events,
            context,
        )
        wait_set.clear_entities()
        return wait_set

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

    def _serve(self, waitable: Waitable[Any]) -> None:
        """Take what a waitable has and have it done."""
        self._call(lambda: _run_to_end(waitable.execute(waitable.take_data())))

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a callback raises
            self._on_error(error)


@dataclass
class _Ready:
    """Entities that have something to take."""

    subscriptions: list[tuple[Subscription[Any], int]] = field(default_factory=list)
    waitables: list[Waitable[Any]] = field(default_factory=list)


def _required_arguments(callback: Callable[..., Any]) -> int:
    parameters = inspect.signature(callback).parameters.values()
    return sum(parameter.default is parameter.empty for parameter in parameters)


def _run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("a callback of a served entity waits; it must be a plain function")

"""A thread that serves some entities of a node in place of the executor.

For each message rclpy's executors collect all entities of a node again, in Python; a wait set of a
few needs none of that. An executor that waits for the events of a subscription (QoS, lost messages)
is woken by its messages too, so the thread looks at these events itself, once a second.
`benchmark/listening.py` measures what it brings. A message that takes long to become a Python
object (a goal with a hundred thousand targets) keeps the executor's other work waiting less, too.
"""

import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.event_handler import EventHandler
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities, Waitable

OnError = Callable[[Exception], None]
Entity = TypeVar("Entity", Subscription[Any], Waitable[Any], EventHandler)

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
        # Each a set in order: rclpy adds an action server twice.
        self._subscriptions: dict[Subscription[Any], int] = {}  # how much their callbacks take
        self._waitables: dict[Waitable[Any], None] = {}
        self._events: dict[EventHandler, None] = {}
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
                self._events[entity] = None
            elif isinstance(entity, Waitable):
                self._waitables[entity] = None
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
                    subscriptions, waitables = self._wait(held)
                    taken = [self._take(subscription) for subscription in subscriptions]
                    for waitable in waitables:
                        self._serve(waitable)
            except Exception as error:  # noqa: BLE001 - nothing may end the thread
                # A handle may go in between, and anything when the context is shut down.
                if not (isinstance(error, InvalidHandle) or self._closed) and self._context.ok():
                    self._on_error(error)
                time.sleep(LOOK_PERIOD_S)
                continue
            if any(taken):
                self._call(self._on_messages)
                time.sleep(PAUSE_S)

    def _wait(self, held: ExitStack) -> tuple[list[Subscription[Any]], list[Waitable[Any]]]:
        """Return what has something to take; all is kept from destruction in `held`."""
        subscriptions = self._alive(held, self._subscriptions)
        waitables = self._alive(held, self._waitables)
        needed = NumberOfEntities(num_subs=len(subscriptions), num_gcs=1)
        for waitable in waitables:
            needed += waitable.get_num_entities()
        wait_set = self._wait_set(held, needed)
        held.enter_context(self._wake)
        for subscription in subscriptions:
            wait_set.add_subscription(subscription.handle)
        wait_set.add_guard_condition(self._wake)
        for waitable in waitables:
            waitable.add_to_wait_set(wait_set)
        wait_set.wait(int(LOOK_PERIOD_S * 1e9))
        ready = set(wait_set.get_ready_entities("subscription"))
        return (
            [
                subscription
                for subscription in subscriptions
                if subscription.handle.pointer in ready
            ],
            [waitable for waitable in waitables if waitable.is_ready(wait_set)],
        )

    def _look_at_events(self, held: ExitStack) -> None:
        """Give the events that have come to their callbacks."""
        events = self._alive(held, self._events)
        if not events:
            return  # an empty wait set cannot be waited for
        wait_set = self._wait_set(held, NumberOfEntities(num_events=len(events)))
        for event in events:
            event.add_to_wait_set(wait_set)
        wait_set.wait(0)
        for event in events:
            if event.is_ready(wait_set):
                self._serve(event)

    def _alive(self, held: ExitStack, entities: dict[Entity, Any]) -> list[Entity]:
        """Return the entities that live, kept from destruction in `held`; forget the others."""
        with self._lock:
            present = list(entities)
        alive = []
        for entity in present:
            try:
                held.enter_context(entity.handle if isinstance(entity, Subscription) else entity)
            except AttributeError:
                continue  # events join their group before they are complete
            except InvalidHandle:
                with self._lock:
                    del entities[entity]
            else:
                alive.append(entity)
        return alive

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

    def _take(self, subscription: Subscription[Any]) -> int:
        """Give what has come to the callback, and return how many messages that were."""
        arguments = self._subscriptions[subscription]
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

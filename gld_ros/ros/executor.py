"""An rclpy executor that ends cleanly, used by the node's process and the demonstration."""

from rclpy.executors import MultiThreadedExecutor


class NodeExecutor(MultiThreadedExecutor):
    """Ends what is queued before it destroys what that uses.

    rclpy destroys the executor's guard condition while callbacks are queued, and each of those then
    prints that its exception "was never retrieved" when the process ends.
    """

    def shutdown(self, timeout_sec: float | None = None, *, wait_for_threads: bool = True) -> bool:
        """Stop executing callbacks; see rclpy.

        No thread may spin any more. Callbacks that run are waited for, whatever `timeout_sec` says.
        """
        self._executor.shutdown(wait=wait_for_threads)
        for task in self._futures:
            if task.done():
                task.exception()  # of what waited for a topic or service that is gone: not news
        return super().shutdown(timeout_sec, wait_for_threads=wait_for_threads)

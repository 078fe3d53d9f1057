"""The node's services: `~/reset`, `~/pause`, `~/save_scene`.

Every request is answered, in every state: whatever goes wrong is logged and reported to the client.
"""

import traceback
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from gld_ros.mapping.scene_files import SceneNotSaved, save_scene
from gld_ros.mapping.session import SynthesisSession
from gld_ros.srv import SaveScene

NOT_CONFIGURED = "the node is not configured"


class Services:
    """Answers services as long as the node lives; `session` returns the node's, if it has one."""

    def __init__(self, node: Node, session: Callable[[], SynthesisSession | None]) -> None:
        self._node, self._session = node, session
        group = MutuallyExclusiveCallbackGroup()
        self._services: list[Any] = [
            node.create_service(kind, name, self._answering(callback), callback_group=group)
            for kind, name, callback in (
                (Trigger, "~/reset", _reset),
                (SetBool, "~/pause", _pause),
                (SaveScene, "~/save_scene", self._save_scene),
            )
        ]

    def close(self) -> None:
        """Destroy the services."""
        for service in self._services:
            self._node.destroy_service(service)
        self._services = []

    def _answering(
        self, callback: Callable[[SynthesisSession, Any, Any], Any]
    ) -> Callable[[Any, Any], Any]:
        """Turn what a callback raises into its answer."""

        def answer(request: Any, response: Any) -> Any:
            session = self._session()
            if session is None:
                response.success, response.message = False, NOT_CONFIGURED
                return response
            try:
                return callback(session, request, response)
            except Exception as error:  # noqa: BLE001 - the client waits for an answer
                self._node.get_logger().error(traceback.format_exc())
                response.success, response.message = False, f"{type(error).__name__}: {error}"
                return response

        return answer

    def _save_scene(
        self,
        session: SynthesisSession,
        request: SaveScene.Request,
        response: SaveScene.Response,
    ) -> SaveScene.Response:
        """Write the keyframes as a scene folder."""
        keyframes = session.store.snapshot()
        try:
            save_scene(request.path, keyframes, include_images=request.include_images)
        except SceneNotSaved as error:
            self._node.get_logger().error(str(error))
            response.success, response.message = False, str(error)
            return response
        response.success, response.num_keyframes = True, len(keyframes)
        response.message = f"{len(keyframes)} keyframes written to {request.path}"
        return response


def _reset(
    session: SynthesisSession, request: Trigger.Request, response: Trigger.Response
) -> Trigger.Response:
    """Forget keyframes, scale, queue and moving transforms."""
    session.reset()
    response.success = True
    response.message = "keyframes, scale, queue and non-static transforms are discarded"
    return response


def _pause(
    session: SynthesisSession, request: SetBool.Request, response: SetBool.Response
) -> SetBool.Response:
    """Stop or resume automatic jobs; images are taken in as before."""
    session.paused = request.data
    response.success = True
    response.message = "automatic jobs are " + ("paused" if request.data else "resumed")
    return response

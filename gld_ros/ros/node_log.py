"""The log of a node as the sink of a FaultLog."""

from rclpy.impl.rcutils_logger import RcutilsLogger

from gld_ros.mapping.fault_log import Emit, Level


def emit_to(logger: RcutilsLogger) -> Emit:
    """Return what writes a line of a level to a node's logger."""

    def emit(level: Level, text: str) -> None:
        # rclpy ties a call site to one severity, hence no getattr.
        if level == "debug":
            logger.debug(text)
        elif level == "info":
            logger.info(text)
        elif level == "warning":
            logger.warning(text)
        elif level == "error":
            logger.error(text)
        else:
            logger.fatal(text)

    return emit

#!/bin/bash
# Enters the distribution, the environment of gld_ros and the workspace, then becomes the command.
set -e
. "/opt/ros/$ROS_DISTRO/setup.bash"
. /ws/venv/bin/activate
. /ws/install/setup.bash
exec "$@"

"""Start gld_node, configured and activated unless told otherwise."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("gld_ros"))

# (name, default, meaning)
ARGUMENTS = (
    ("namespace", "", "Namespace of the node; a robot's name."),
    ("params_file", str(SHARE / "config" / "gld.yaml"), "Parameter file."),
    (
        "profile",
        str(SHARE / "config" / "profile_cpu.yaml"),
        "Overlay on the parameter file: config/profile_{cpu,desktop,jetson}.yaml.",
    ),
    ("image", "camera/image", "Image topic of the camera; transport suffixes are added to it."),
    ("camera_info", "camera/camera_info", "CameraInfo topic of the camera."),
    ("use_sim_time", "false", "Take time from /clock (bags, simulators)."),
    ("autostart", "true", "Configure and activate at once; false leaves that to a manager."),
    ("respawn", "true", "Start again after a lost device (exit code 70) or a crash."),
    ("log_level", "info", "debug, info, warn, error or fatal."),
)


def generate_launch_description() -> LaunchDescription:
    argument = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    node = LifecycleNode(
        package="gld_ros",
        executable="gld_node",
        name="gld",
        namespace=argument["namespace"],
        parameters=[
            argument["params_file"],
            argument["profile"],
            {"use_sim_time": argument["use_sim_time"]},
        ],
        remappings=[
            ("camera/image", argument["image"]),
            ("camera/camera_info", argument["camera_info"]),
        ],
        arguments=["--ros-args", "--log-level", argument["log_level"]],
        respawn=argument["respawn"],
        respawn_delay=2.0,
        output="screen",
    )

    def change(transition_id: int) -> EmitEvent:
        return EmitEvent(
            event=ChangeState(
                lifecycle_node_matcher=matches_action(node), transition_id=transition_id
            ),
            condition=IfCondition(argument["autostart"]),
        )

    # At every start of the process, so also when it was started again.
    configure_when_started = RegisterEventHandler(
        OnProcessStart(target_action=node, on_start=[change(Transition.TRANSITION_CONFIGURE)])
    )
    activate_when_configured = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[change(Transition.TRANSITION_ACTIVATE)],
        )
    )
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=meaning)
                for name, default, meaning in ARGUMENTS
            ),
            configure_when_started,
            activate_when_configured,
            node,
        ]
    )

"""The table on an rclpy node: declaration with descriptors, validate-then-apply, snapshots."""

from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from gld_ros.ros.parameters.documents import describe_allowed
from gld_ros.ros.parameters.snapshot import Snapshot, make_snapshot
from gld_ros.ros.parameters.spec import Parameter, Value, When
from gld_ros.ros.parameters.table import TABLE, per_camera_parameters
from gld_ros.ros.parameters.validation import problem_with, problem_with_set

# Names that every ROS node may be given and that are not ours to judge.
FOREIGN_PREFIXES = ("use_sim_time", "qos_overrides.", "start_type_description_service")


class NodeParameters:
    """The parameters of one node: `snapshot` is always a valid set.

    Declared in the constructor, so that they can be listed and set before configure. Values that a
    YAML file gives wrongly do not crash the node: `problems` reports them and configure fails.
    """

    def __init__(self, node: Node, is_active: Callable[[], bool]) -> None:
        self._node = node
        self._is_active = is_active
        self.startup_problems: list[str] = []
        self._table: dict[str, Parameter] = {}
        self._values: dict[str, Value] = {}
        self.on_change: Callable[[Snapshot, set[str]], None] = lambda snapshot, names: None
        for parameter in TABLE:
            self._declare(parameter)
        cameras = self._values["camera_names"]
        assert isinstance(cameras, list)  # as its row states
        for parameter in per_camera_parameters([str(name) for name in cameras]):
            self._declare(parameter)
        self.snapshot = self._try_snapshot()
        node.add_on_set_parameters_callback(self._validate)
        node.add_post_set_parameters_callback(self._apply)

    def problems(self) -> list[str]:
        """Return what keeps the node from being configured: bad values and unknown names."""
        found = [*self.startup_problems]
        unknown = sorted(
            name
            for name, given in self._node._parameter_overrides.items()
            if name not in self._table
            and not name.startswith(FOREIGN_PREFIXES)
            # Overlays name other cameras than the file below them; an empty override asks nothing.
            and not (name.startswith("frame_id_override.") and given.value == "")
        )
        if unknown:
            found.append(
                f"unknown parameter(s) {', '.join(unknown)}; `gld-ros params` lists the known ones"
            )
        contradiction = problem_with_set(self._values)
        return [*found, contradiction] if contradiction else found

    def needing_configure(self, since: Snapshot) -> list[str]:
        """Return what differs from `since` and takes effect only with another configure."""
        return [
            name
            for name, value in self.snapshot.values.items()
            if value != since.values[name] and self._table[name].when is When.INACTIVE
        ]

    def _declare(self, parameter: Parameter) -> None:
        self._table[parameter.name] = parameter
        descriptor = _descriptor(parameter)
        try:
            declared = self._node.declare_parameter(parameter.name, parameter.default, descriptor)
            value = _plain(declared.value)
            problem = problem_with(parameter, value)
        except (InvalidParameterTypeException, ParameterException) as error:
            value, problem = parameter.default, str(error)
        if problem:
            self.startup_problems.append(problem)
            value = parameter.default
        self._values[parameter.name] = value

    def _try_snapshot(self) -> Snapshot:
        try:
            return make_snapshot(self._values)
        except ValueError as error:
            self.startup_problems.append(str(error))
            return make_snapshot({p.name: p.default for p in self._table.values()})

    def _validate(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        """Accept or reject a batch as one set, so that values that belong together can change."""
        values = dict(self._values)
        for change in changes:
            parameter = self._table.get(change.name)
            if parameter is None:
                continue  # not ours, e.g. use_sim_time; unknown names are never declared
            if parameter.when is When.START:
                return _rejected(f"{change.name} can only be set at start")
            if parameter.when is When.INACTIVE and self._is_active():
                return _rejected(f"{change.name} can only be set while the node is not active")
            value = _plain(change.value)
            problem = problem_with(parameter, value)
            if problem:
                return _rejected(problem)
            values[change.name] = value
        contradiction = problem_with_set(values)
        return _rejected(contradiction) if contradiction else SetParametersResult(successful=True)

    def _apply(self, changes: Sequence[RosParameter]) -> None:
        names = {change.name for change in changes if change.name in self._table}
        if not names:
            return
        self._values |= {
            change.name: _plain(change.value) for change in changes if change.name in names
        }
        # A value that was wrong at start has been replaced by a right one.
        self.startup_problems = [
            p for p in self.startup_problems if not any(p.startswith(f"{n} is") for n in names)
        ]
        self.snapshot = make_snapshot(self._values)
        self.on_change(self.snapshot, names)


def _rejected(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)


def _plain(value: Any) -> Value:
    """Return arrays as lists, so that rows need to know Python types only."""
    if isinstance(value, str | bool | int | float):
        return value
    return list(value)


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    unit = f" [{parameter.unit}]" if parameter.unit else ""
    descriptor = ParameterDescriptor(
        name=parameter.name,
        description=parameter.description + unit,
        additional_constraints=f"{describe_allowed(parameter)}; {parameter.when.value}",
        # The table knows more than this flag; it is set where even the service must not try.
        read_only=False,
    )
    low, high = parameter.low, parameter.high
    if low is not None and high is not None and not parameter.type.endswith("[]"):
        if parameter.type == "int":
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    return descriptor

#!/usr/bin/env bash
# Builds and tests the package in a ROS distribution as a user would: a fresh workspace, a virtual
# environment on top of the distribution's Python, colcon build, colcon test.
#
#   tools/ros/test_distribution.sh /opt/ros/kilted     or any folder with a setup.bash or setup.sh
#
# Everything it makes lies in out/distribution; the environment there is kept for the next run.
#
#   GLD_DISTRIBUTION_KEEP=1   keeps the workspace too, so that only what changed is built again
set -eo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
WORK=${GLD_DISTRIBUTION_WORK:-$ROOT/out/distribution}
say() { echo "[gld_ros] $* ($((SECONDS / 60)) min $((SECONDS % 60)) s)"; }
die() { echo "[gld_ros] error: $*" >&2; exit 2; }

setup=
for name in setup.bash setup.sh; do
  if [ -z "$setup" ] && [ -f "${1:-}/$name" ]; then setup=$1/$name; fi
done
[ -n "$setup" ] || die "'${1:-}' has no setup.bash: make test-distribution DISTRO=/opt/ros/kilted"

# Nothing of another ROS or virtual environment may shine through.
unset VIRTUAL_ENV AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH \
  ROS_DISTRO GLD_ROS_MODE _ROS_WHEELS_BOOTSTRAP_COMPLETE FASTDDS_DEFAULT_PROFILES_FILE
PATH=$(tr ':' '\n' <<<"$PATH" | grep -v -e "^$ROOT/" | paste -sd:)
# shellcheck source=/dev/null
. "$setup"

export GLD_ROS_VENV=$WORK/venv
mkdir -p "$WORK"
touch "$WORK/COLCON_IGNORE"
if [ ! -x "$GLD_ROS_VENV/bin/python" ]; then python3 -m venv --system-site-packages "$GLD_ROS_VENV"; fi
LENDER=$ROOT/.venv/bin/python # the environment of `make test`, where there is one
if [ -x "$LENDER" ]; then "$LENDER" "$ROOT/tools/ros/lend_torch.py" "$GLD_ROS_VENV/bin/python"; fi
"$ROOT/tools/ros/bootstrap.sh" packages
. "$GLD_ROS_VENV/bin/activate"

rm -rf "$WORK/ws/src"
[ "${GLD_DISTRIBUTION_KEEP:-0}" = 1 ] || rm -rf "$WORK/ws"
mkdir -p "$WORK/ws/src/gld_ros"
(cd "$ROOT" && { git ls-files -co --exclude-standard || find . -type f; } | tar -c --ignore-failed-read -f - -T - 2>/dev/null) |
  tar -x -C "$WORK/ws/src/gld_ros"
if [ -d "$ROOT/../shared" ]; then export GLD_SHARED=${GLD_SHARED:-$(cd "$ROOT/../shared" && pwd)}; fi
if ! python -c 'import bond.msg' 2>/dev/null; then # Nav2 brings it; not every distribution here has Nav2
  cp -r "$ROOT/tools/ros/src_test/bond" "$WORK/ws/src/"
fi
cd "$WORK/ws"
cores=$(env -u OMP_NUM_THREADS nproc) # nproc would take that variable for the number of cores
# Without it colcon passes -l to make, which then waits whenever the machine is busy otherwise.
export MAKEFLAGS=-j$cores
say "colcon build"
colcon build --event-handlers console_direct- >"$WORK/build.log" 2>&1 ||
  { tail -n 40 "$WORK/build.log" >&2; die "colcon build failed (all of it: $WORK/build.log)"; }
. install/local_setup.bash
say "colcon test"
# Groups of tests run side by side, each in a ROS domain of its own; they wait more than they compute.
export GLD_REQUIRE_ROS=1 GLD_REQUIRE_DISTRIBUTION=1 OMP_NUM_THREADS=1
rm -rf build/gld_ros/test_results # of a workspace that was kept
colcon test --packages-select gld_ros --event-handlers console_direct- \
  --ctest-args -j "$((2 * cores))" >"$WORK/test.log" 2>&1 || true
python "$ROOT/tools/ros/test_counts.py" "$WORK/ws/build/gld_ros/test_results/gld_ros" && status=0 || status=$?
[ $status = 0 ] || { echo "all of it: $WORK/ws/build/gld_ros/Testing/Temporary/LastTest.log" >&2; }
say "done: $setup, $(python -V)"
exit $status

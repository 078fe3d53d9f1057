#!/usr/bin/env bash
# Makes this checkout ready to run: virtual environment, Python packages, ROS interfaces, env.sh.
#
#   tools/ros/bootstrap.sh            then:  . ./env.sh
#   tools/ros/bootstrap.sh demo       without what only tests, lint, training and the like need
#   tools/ros/bootstrap.sh packages   only the virtual environment, for a colcon workspace of yours
#
# With a ROS distribution sourced (ROS_DISTRO is set) that distribution is used and no ROS wheel is
# installed. Otherwise ROS 2 comes from PyPI (Linux x86_64). Run it as often as you like: what has
# not changed is not done again. It needs no root and writes nothing outside the checkout, but for
# pip's own cache.
#
#   GLD_ROS_MODE=pip|distro   choose instead of detecting
#   GLD_PYTHON=python3.12     interpreter that the environment is made with (default: python3)
#   GLD_ROS_VENV=DIR          where the environment lives (default: .venv)
#   GLD_ROS_EXTRAS="test eval"   extras of setup.py in a distribution (default: test); all from PyPI
#
# torch: one that the distribution's Python has (JetPack's, a container's) stays.
# pip's own settings are honoured: point them at CPU wheels of torch to avoid the larger CUDA ones.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
VENV=${GLD_ROS_VENV:-$ROOT/.venv}
PYTHON=${GLD_PYTHON:-python3}
MISSING=()

say() { echo "[gld_ros] $*"; }
die() { echo "[gld_ros] error: $*" >&2; exit 2; }
# All that decides a step goes into its stamp: the step runs again exactly when the sum changes.
sum() { sha256sum | cut -d ' ' -f 1; }
same() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

choose_mode() {
  local detected=pip
  if [ -n "${ROS_DISTRO:-}" ]; then detected=distro; fi
  MODE=${GLD_ROS_MODE:-$detected}
  case "$MODE" in
    pip)
      case ":${PYTHONPATH:-}:${LD_LIBRARY_PATH:-}:" in
        */opt/ros/*) die "a ROS distribution is in PYTHONPATH or LD_LIBRARY_PATH; two builds of" \
          "rclpy must not mix. Open a shell that has not sourced it, or use GLD_ROS_MODE=distro." ;;
      esac ;;
    distro)
      [ -n "${ROS_DISTRO:-}" ] || die "GLD_ROS_MODE=distro, but ROS_DISTRO is not set:" \
        "source your distribution first (. /opt/ros/<name>/setup.bash)." ;;
    *) die "GLD_ROS_MODE is '$MODE'; allowed are pip and distro." ;;
  esac
}

need() { # need COMMAND APT_PACKAGE
  command -v "$1" >/dev/null || MISSING+=("$1 (apt: $2)")
}

check_machine() {
  command -v "$PYTHON" >/dev/null || die "no '$PYTHON' found (apt: python3); GLD_PYTHON names another."
  "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' ||
    die "$("$PYTHON" -V) is not supported; 3.10 to 3.14 are. GLD_PYTHON names another."
  "$PYTHON" -c 'import ensurepip' 2>/dev/null || MISSING+=("Python's venv module (apt: python3-venv)")
  "$PYTHON" -c 'import pathlib, sysconfig, sys
sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").is_file())' ||
    MISSING+=("Python's headers, Python.h (apt: python3-dev)")
  need g++ g++
  need make make
  if [ "$MODE" = distro ]; then
    need cmake cmake
    need colcon python3-colcon-common-extensions
    "$PYTHON" -c 'import rclpy' 2>/dev/null || MISSING+=(
      "rclpy for $("$PYTHON" -V) (apt: ros-$ROS_DISTRO-rclpy; or set GLD_PYTHON to the Python that has it)")
  elif [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    die "PyPI has ROS 2 wheels for Linux x86_64 only, this is $(uname -s) $(uname -m):" \
      "install a ROS 2 distribution, source it, and run this again."
  fi
  if [ ${#MISSING[@]} -gt 0 ]; then
    printf '[gld_ros] missing: %s\n' "${MISSING[@]}" >&2
    die "install what is missing, then run this again."
  fi
}

modern_cmake() { # pip_prefix.cmake needs 3.21
  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*\([0-9]*\.[0-9]*\).*/\1/p')
  [ -n "$version" ] && [ "$(printf '%s\n3.21\n' "$version" | sort -V | head -n 1)" = 3.21 ]
}

pip_install() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --progress-bar "$(
    if [ -t 1 ]; then echo on; else echo off; fi)" --no-compile "$@" >>"$VENV/.gld_ros-pip.log" 2>&1 ||
    { tail -n 25 "$VENV/.gld_ros-pip.log" >&2; die "pip failed (all of it: $VENV/.gld_ros-pip.log)."; }
}

# The requirements of setup.py, for where the lock does not fit: older Pythons, distributions.
ranges_from_setup() {
  local extras=(test train eval demo cluster)
  if [ "$STEP" = demo ]; then
    extras=(demo)
  elif [ "$MODE" = distro ]; then read -ra extras <<<"${GLD_ROS_EXTRAS-test}"; fi
  "$VENV/bin/python" "$ROOT/tools/ros/distribution_requirements.py" "${extras[@]}"
}

install_packages() {
  local requirements=() hashed=() stamp="$VENV/.gld_ros-packages" wanted
  local locks=("$ROOT/tools/requirements.lock" "$ROOT/tools/requirements-test.lock")
  if [ ! -x "$VENV/bin/python" ]; then
    say "making the virtual environment $VENV ($("$PYTHON" -V))"
    if [ "$MODE" = distro ]; then
      "$PYTHON" -m venv --system-site-packages "$VENV"
    else
      "$PYTHON" -m venv "$VENV"
    fi
  fi
  exec 9>"$VENV/.gld_ros-lock"
  flock 9 # two runs at once would install over each other

  wanted=$({ echo "$MODE ${ROS_DISTRO:-} ${GLD_ROS_EXTRAS-test}"; "$VENV/bin/python" -V
    modern_cmake || echo "pip's cmake"
    cd "$ROOT" && cat setup.py "${locks[@]}" tools/requirements-torch.txt \
      tools/ros/requirements-ros.txt \
      tools/ros/distribution_requirements.py
  } | sum)
  if same "$stamp" "$wanted"; then return; fi # all that there is, so the demonstration's as well
  if [ "$STEP" = demo ]; then
    stamp=$stamp-demo
    locks=("${locks[0]}")
    if same "$stamp" "$wanted"; then return; fi
  fi

  if [ "$MODE" = pip ]; then hashed+=(-r "$ROOT/tools/ros/requirements-ros.txt"); fi
  if [ "$MODE" = pip ] && "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    for lock in "${locks[@]}"; do hashed+=(-r "$lock"); done
    requirements+=(-r "$ROOT/tools/requirements-torch.txt")
  else
    "$VENV/bin/python" -c 'import setuptools' 2>/dev/null ||
      "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check 'setuptools>=65,<80'
    ranges_from_setup >"$VENV/.gld_ros-requirements" || die "nothing was installed."
    requirements+=(-r "$VENV/.gld_ros-requirements")
  fi
  if [ "$MODE" = pip ] && ! modern_cmake; then
    say "no cmake >= 3.21 here: taking it from PyPI"
    requirements+=("cmake>=3.21,<4")
  fi
  say "installing Python packages (a first time: some minutes)"
  : >"$VENV/.gld_ros-pip.log"
  # The locks are complete; finding that out would take minutes. torch brings libraries of CUDA, or not.
  if [ ${#hashed[@]} -gt 0 ]; then pip_install --require-hashes --no-deps "${hashed[@]}"; fi
  pip_install "${requirements[@]}"
  # On all cores; pip would use one. Files of other Python versions, such as templates, fail here.
  "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" >/dev/null 2>&1 || true
  echo "$wanted" >"$stamp"
}

build_interfaces() {
  local stamp="$ROOT/build/.gld_ros-built" wanted args=() bases=("$ROOT")
  if [ -d "$ROOT/build" ] && ! same "$ROOT/build/.gld_ros-mode" "$MODE ${ROS_DISTRO:-} $VENV"; then
    say "the last build was another one (mode, distribution or environment): starting afresh"
    rm -rf "$ROOT/build" "$ROOT/install" "$ROOT/log"
  fi
  mkdir -p "$ROOT/build/source_path"
  touch "$ROOT/build/COLCON_IGNORE"
  echo "$MODE ${ROS_DISTRO:-} $VENV" >"$ROOT/build/.gld_ros-mode"
  ln -sfn "$ROOT/gld_ros" "$ROOT/build/source_path/gld_ros"

  # Python and launch files are linked, so only a new or a vanished one asks for another build.
  wanted=$(cd "$ROOT" && {
    "$VENV/bin/python" -V
    cat CMakeLists.txt package.xml tools/ros/pip_prefix.cmake
    find msg srv action tools/ros/src_pip -type f | sort | xargs cat
    for part in gld_ros scripts launch config rviz; do
      if [ -d $part ]; then find $part -type f -not -name '*.pyc' | sort; fi
    done
  } | sum)
  if same "$stamp" "$wanted"; then return; fi

  args=(-DPython3_EXECUTABLE="$VENV/bin/python" -DBUILD_TESTING=OFF)
  if [ "$MODE" = pip ]; then
    bases+=("$ROOT/tools/ros/src_pip")
    args+=(-DCMAKE_PROJECT_INCLUDE="$ROOT/tools/ros/pip_prefix.cmake")
    export AMENT_PREFIX_PATH=$VENV CMAKE_PREFIX_PATH=$VENV
    unset _ROS_WHEELS_BOOTSTRAP_COMPLETE # inherited, it would keep the wheels' libraries from loading
  fi
  # Without it colcon passes -l to make, which then waits whenever the machine is busy otherwise.
  export MAKEFLAGS=-j$(env -u OMP_NUM_THREADS nproc) # nproc would take that variable for the cores
  say "building the interfaces"
  (cd "$ROOT" && PATH="$VENV/bin:$PATH" colcon --log-base log build --base-paths "${bases[@]}" \
    --packages-up-to gld_ros --symlink-install --event-handlers console_direct- \
    --cmake-args "${args[@]}") >"$ROOT/build/colcon.log" 2>&1 ||
    { tail -n 40 "$ROOT/build/colcon.log" >&2; die "the build failed (all of it: build/colcon.log)."; }
  echo "$wanted" >"$stamp"
}

write_env() {
  local distro_setup="" profile_variable=FASTDDS_DEFAULT_PROFILES_FILE
  case "$MODE-${ROS_DISTRO:-}" in # the name that Fast DDS 2 knows
    distro-humble | distro-iron | distro-jazzy) profile_variable=FASTRTPS_DEFAULT_PROFILES_FILE ;;
  esac
  if [ "$MODE" = distro ]; then
    distro_setup=$("$PYTHON" -c 'import pathlib, rclpy
print(pathlib.Path(rclpy.__file__).parents[4] / "setup.sh")')
  fi
  {
    echo "# Written by tools/ros/bootstrap.sh; source it: . ./env.sh"
    if [ "$MODE" = distro ]; then
      echo "if [ -z \"\${ROS_DISTRO:-}\" ] && [ -f '$distro_setup' ]; then . '$distro_setup'; fi"
    fi
    echo ". '$VENV/bin/activate'"
    if [ "$MODE" = pip ]; then
      cat <<SH
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
export AMENT_PREFIX_PATH='$VENV'
export CMAKE_PREFIX_PATH='$VENV'
export LD_LIBRARY_PATH='$VENV/lib'"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp
GLD_LOCAL_ONLY=\${GLD_LOCAL_ONLY:-1}
SH
    fi
    cat <<SH
COLCON_CURRENT_PREFIX='$ROOT/install' . '$ROOT/install/local_setup.sh'
# The sources before their installed links: a new file is there without another build.
export PYTHONPATH='$ROOT/build/source_path'"\${PYTHONPATH:+:\$PYTHONPATH}"
# One machine by default (always so with ROS from PyPI; GLD_LOCAL_ONLY=0 leaves DDS as it is).
if [ "\${GLD_LOCAL_ONLY:-0}" = 1 ]; then
  export ROS_AUTOMATIC_DISCOVERY_RANGE=\${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
  export $profile_variable=\${$profile_variable:-'$ROOT/tools/ros/fastdds.xml'}
fi
SH
  } >"$ROOT/env.sh.new"
  mv "$ROOT/env.sh.new" "$ROOT/env.sh"
}

started=$SECONDS
STEP=${1:-all}
case "$STEP" in
  all | demo | packages) ;;
  *) die "'$STEP' is not a step; allowed: demo, packages, or nothing." ;;
esac
choose_mode
check_machine
install_packages
if [ "$STEP" = packages ]; then
  say "ready ($((SECONDS - started)) s). Enter with:  . $VENV/bin/activate"
  exit
fi
build_interfaces
write_env
if [ "$MODE" = pip ]; then origin="ROS 2 from PyPI"; else origin="ROS 2 $ROS_DISTRO"; fi
say "ready ($origin, $((SECONDS - started)) s). Enter with:  . ./env.sh"

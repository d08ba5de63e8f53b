"""What a pod runs: torchrun, and around it what decides whether the pod starts again.

The controllers know a container by its exit code alone: one of 128 or more starts the pod again, any other one ends
the job (restartPolicy ExitCode of a PyTorchJob; podFailurePolicy of a TrainingRuntime).
"""

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from trainer.config.kubernetes import JOB_VARIABLE
from trireme.errors import EXIT_BAD_INPUT, EXIT_NOT_RECOVERED, EXIT_REQUEUE, EXIT_STOPPED

FINAL_CODES = (EXIT_STOPPED, EXIT_BAD_INPUT, EXIT_NOT_RECOVERED, 126, 127)
"""Exit codes of a pod that end the job; 126 and 127 are bash's, for a command that it cannot start."""

_BODY = f"""
asked=0 run=
trap 'asked=1; [ -z "$run" ] || kill -TERM "$run" 2>/dev/null' TERM INT
cd "$directory" || exit {EXIT_STOPPED}

# The first pod counts starts that found the same newest checkpoint as the one before.
newest=none
for path in "$run_directory"/checkpoints/step_*; do
  step=${{path##*/step_}}
  case $step in '' | *[!0-9]*) ;; *) newest=$step ;; esac
done
starts=$run_directory/kubernetes/${JOB_VARIABLE}.starts
note() {{ [ "${{PET_NODE_RANK:-0}}" != 0 ] || echo "$1" >>"$starts"; }}
if [ "${{PET_NODE_RANK:-0}}" = 0 ]; then
  mkdir -p "$run_directory/kubernetes" # where that fails, the run itself says why, and ends with {EXIT_BAD_INPUT}
  count=0
  [ ! -e "$starts" ] || while read -r step; do
    case $step in
      "$newest") count=$((count + 1)) ;;
      left) [ "$count" = 0 ] || count=$((count - 1)) ;;
      *) count=0 ;;
    esac
  done <"$starts"
  if [ "$count" -gt "$max_restarts" ]; then
    echo "stopped: $count starts in a row brought no newer checkpoint (newest: $newest); see what was said before," \\
      "then print a new manifest (cluster.kubernetes.max_restarts=$max_restarts)" >&2
    exit {EXIT_STOPPED}
  fi
fi
note "$newest"

"$@" &
run=$!
[ "$asked" = 0 ] || kill -TERM "$run"
# A signal ends `wait`, not the run.
while true; do
  wait "$run"
  code=$?
  kill -0 "$run" 2>/dev/null || break
done

# A pod that was told to leave, or whose run was, is no failure.
if [ "$asked" = 1 ] || [ "$code" = {EXIT_REQUEUE} ]; then note left; fi
# Exit codes of 128 and more start the pod again; 2 and 82 are final, as is a command that is not there.
case $code in
  0 | {EXIT_BAD_INPUT} | {EXIT_NOT_RECOVERED} | 126 | 127) exit "$code" ;;
esac
[ "$code" -ge 128 ] || code=$((128 + code))
echo "exit code $code (128 + that of the run) asks for a restart" >&2
exit "$code"
"""


def pod_command(
    command: Sequence[str], *, directory: str, run_directory: PurePosixPath, max_restarts: int
) -> list[str]:
    """Return the command of the container that trains.

    Args:
        command: torchrun with its arguments.
        directory: where it runs.
        run_directory: absolute, on a volume that all pods share.
        max_restarts: how often in a row it may start again without a newer checkpoint.
    """
    settings = {"directory": directory, "run_directory": str(run_directory), "max_restarts": str(max_restarts)}
    head = "".join(f"{name}={_quote(value)}\n" for name, value in settings.items())
    return ["bash", "-c", f"{head}set -- {' '.join(map(_quote, command))}\n{_BODY.lstrip()}"]


def _quote(word: str) -> str:
    """Quote a word for the shell, and for Kubernetes, which reads $$ as $ and $(NAME) as the value of a variable."""
    return shlex.quote(word).replace("$", "$$")

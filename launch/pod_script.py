"""The command of a pod: torchrun, and the script around it that decides whether the pod restarts.

The controllers see only the container's exit code: 128 or more restarts the pod, any other code ends the job
(restartPolicy ExitCode of a PyTorchJob; podFailurePolicy of a TrainingRuntime).
"""

import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from trainer.config.kubernetes import JOB_VARIABLE
from trireme.errors import EXIT_BAD_INPUT, EXIT_NOT_RECOVERED, EXIT_REQUEUE, EXIT_STOPPED

FINAL_CODES = (EXIT_STOPPED, EXIT_BAD_INPUT, EXIT_NOT_RECOVERED, 126, 127)
"""Exit codes of a pod that end the job; bash returns 126 and 127 when it cannot start a command."""

_BODY = f"""
asked=0 run=
trap 'asked=1; [ -z "$run" ] || kill -TERM "$run" 2>/dev/null' TERM INT
cd "$directory" || exit {EXIT_STOPPED}

# The first pod counts consecutive starts with the same latest checkpoint.
newest=none
for path in "$run_directory"/checkpoints/step_*; do
  step=${{path##*/step_}}
  case $step in '' | *[!0-9]*) ;; *) newest=$step ;; esac
done
starts=$run_directory/kubernetes/${JOB_VARIABLE}.starts
note() {{ [ "${{PET_NODE_RANK:-0}}" != 0 ] || echo "$1" >>"$starts"; }}
if [ "${{PET_NODE_RANK:-0}}" = 0 ]; then
  mkdir -p "$run_directory/kubernetes" # if that fails, the run reports why and exits with {EXIT_BAD_INPUT}
  count=0
  [ ! -e "$starts" ] || while read -r step; do
    case $step in
      "$newest") count=$((count + 1)) ;;
      left) [ "$count" = 0 ] || count=$((count - 1)) ;;
      *) count=0 ;;
    esac
  done <"$starts"
  if [ "$count" -gt "$max_restarts" ]; then
    echo "Stopped: $count consecutive restarts made no progress (latest checkpoint: $newest). Fix the cause, see" \\
      "the log above, then apply a new manifest (cluster.kubernetes.max_restarts=$max_restarts)." >&2
    exit {EXIT_STOPPED}
  fi
fi
note "$newest"

"$@" &
run=$!
[ "$asked" = 0 ] || kill -TERM "$run"
# A signal interrupts `wait`, not the run.
while true; do
  wait "$run"
  code=$?
  kill -0 "$run" 2>/dev/null || break
done

# A pod or a run that was asked to stop has not failed.
if [ "$asked" = 1 ] || [ "$code" = {EXIT_REQUEUE} ]; then note left; fi
# Exit codes of 128 and more restart the pod; 2 and 82 are final, as is a missing command.
case $code in
  0 | {EXIT_BAD_INPUT} | {EXIT_NOT_RECOVERED} | 126 | 127) exit "$code" ;;
esac
[ "$code" -ge 128 ] || code=$((128 + code))
echo "Requesting a restart with exit code $code (128 + the run's exit code)." >&2
exit "$code"
"""


def pod_command(
    command: Sequence[str], *, directory: str, run_directory: PurePosixPath, max_restarts: int
) -> list[str]:
    """Return the command of the training container.

    Args:
        command: torchrun with its arguments.
        directory: working directory.
        run_directory: absolute, on a volume that all pods share.
        max_restarts: consecutive restarts without a newer checkpoint.
    """
    settings = {"directory": directory, "run_directory": str(run_directory), "max_restarts": str(max_restarts)}
    head = "".join(f"{name}={_quote(value)}\n" for name, value in settings.items())
    return ["bash", "-c", f"{head}set -- {' '.join(map(_quote, command))}\n{_BODY.lstrip()}"]


def _quote(word: str) -> str:
    """Quote a word for the shell and for Kubernetes, which reads $$ as $ and $(NAME) as the value of a variable."""
    return shlex.quote(word).replace("$", "$$")

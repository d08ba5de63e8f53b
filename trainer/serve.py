"""Serve a trained model over HTTP, with OpenAI's API and a page to chat.

    trireme serve outputs/smollm2
    torchrun --nproc-per-node 2 -m trainer.serve PATH --tensor-model-parallel-size 2

PATH is a run directory, whose latest valid checkpoint is loaded, an import, or a checkpoint. Open http://127.0.0.1:8000
in a browser, or point a client of OpenAI's API to http://127.0.0.1:8000/v1. Requests of all clients are generated
together. Exit codes: 0 stopped by a signal, after the accepted texts have ended; 1 the server failed; 2 invalid input.
"""

import argparse
import logging
import os
import sys
from functools import partial
from pathlib import Path

from trainer.inference.options import (
    SAMPLING_DEFAULTS,
    add_model_options,
    check_model_options,
    choose_sampling,
    model_options,
)
from trireme.command import run_command
from trireme.errors import EXIT_OK, ConfigError, Violation, raise_if_any
from trireme.extras import check_extra
from trireme.logging import configure_logging
from trireme.processes import global_rank

API_KEY_VARIABLE = "TRIREME_API_KEY"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_LOGGER = logging.getLogger(__name__)


def main() -> int:
    """Run the command."""
    configure_logging(rank=global_rank())
    return run_command(lambda: run(_parse()))


def run(arguments: argparse.Namespace) -> int:
    """Load the latest valid checkpoint and answer requests until a signal.

    Raises:
        ConfigError: the arguments, the checkpoint or the tokenizer are invalid, or the port cannot be opened.
    """
    raise_if_any(_check(arguments))
    api_key = _read_api_key(arguments.api_key_file)
    # Late: arguments are checked first, and the shim must be installed before Megatron-Core is imported.
    from trainer.parallel import cpu_shim  # noqa: PLC0415 - see above

    cpu_shim.install()
    from trainer.inference.loading import load_model  # noqa: PLC0415 - see above
    from trainer.inference.server.metrics import ServerMetrics  # noqa: PLC0415 - see above
    from trainer.inference.server.run import bind, run_server  # noqa: PLC0415 - see above
    from trainer.inference.server.service import Service  # noqa: PLC0415 - see above
    from trainer.inference.server.worker import Worker  # noqa: PLC0415 - see above
    from trainer.parallel.world import stop_world  # noqa: PLC0415 - see above

    is_driver = global_rank() == 0
    opened = bind(arguments.host, arguments.port) if is_driver else None
    model = load_model(model_options(arguments), purpose="serve the model")
    if opened is None:
        model.runner.follow()
        stop_world()
        return EXIT_OK
    try:
        generator = model.new_generator()
        metrics = ServerMetrics(
            num_active=lambda: worker.load.num_active,
            num_waiting=lambda: worker.load.num_waiting,
            cache_bytes=partial(getattr, model.runner, "cache_bytes"),
        )
        worker = Worker(generator, max_waiting=arguments.max_queue, on_step=metrics.observe_step)
        unset = argparse.Namespace(**dict.fromkeys(SAMPLING_DEFAULTS))
        service = Service(
            model,
            worker,
            name=arguments.served_model_name or model.name,
            defaults=choose_sampling(unset, generation_config=model.generation_config),
            max_tokens=arguments.max_tokens or model.context_length,
            metrics=metrics,
        )
        opened.listen()  # requests that come before the server runs wait for it
        _announce(service.name, address=opened.getsockname(), has_key=api_key is not None, host=arguments.host)
        run_server(
            service,
            opened=opened,
            api_key=api_key,
            max_body_bytes=arguments.max_body_bytes,
            drain_seconds=arguments.drain_seconds,
        )
    finally:
        model.runner.stop()
    stop_world()
    return EXIT_OK


def _announce(name: str, *, address: tuple[str, int], has_key: bool, host: str) -> None:
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    _LOGGER.info("Serving %s at http://%s:%d (API at /v1, page at /).", name, shown, address[1])
    if not has_key and host not in _LOCAL_HOSTS:
        _LOGGER.warning(
            "Anyone who reaches %s can use the model: there is no API key. Set %s, or give --api-key-file.",
            host,
            API_KEY_VARIABLE,
        )


def _read_api_key(path: Path | None) -> str | None:
    """Return the key in a file, or else in the environment; None if there is neither.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    if path is None:
        return os.environ.get(API_KEY_VARIABLE) or None
    try:
        key = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot be read: {error}"
        raise ConfigError([_violation("--api-key-file", path, message, "Give a text file.")]) from error
    if not key:
        raise ConfigError([_violation("--api-key-file", path, "is empty", "Write the key into it.")])
    return key


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trireme serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser, names_adapters=True)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this host)")
    group.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"file with the key that requests must carry (default: ${API_KEY_VARIABLE}, or no key)",
    )
    group.add_argument("--served-model-name", metavar="NAME", help="name of the model (default: that of the run)")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-queue",
        type=int,
        default=64,
        metavar="N",
        help="texts that wait for their turn; further requests get status 429 (default: %(default)s)",
    )
    limits.add_argument(
        "--max-tokens", type=int, metavar="N", help="new tokens of one text (default: the model's context)"
    )
    limits.add_argument(
        "--max-body-bytes", type=int, default=2**20, metavar="N", help="size of a request (default: %(default)s)"
    )
    limits.add_argument(
        "--drain-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="time for accepted texts to end after SIGTERM or Ctrl-C (default: %(default)s)",
    )
    return parser.parse_args()


def _check(arguments: argparse.Namespace) -> list[Violation]:
    """Return the errors of all arguments."""
    found = check_extra("serve", ("fastapi", "uvicorn", "prometheus_client")) + check_model_options(arguments)
    rules = (
        ("port", "must be between 0 and 65535", 0 <= arguments.port <= 65535),
        ("max_queue", "must be at least 0", arguments.max_queue >= 0),
        ("max_tokens", "must be at least 1", arguments.max_tokens is None or arguments.max_tokens >= 1),
        ("max_body_bytes", "must be at least 1", arguments.max_body_bytes >= 1),
        ("drain_seconds", "must be at least 0", arguments.drain_seconds >= 0),
    )
    found += _check_adapters(arguments)
    for name, message, holds in rules:
        if not holds:
            found.append(_violation(f"--{name.replace('_', '-')}", getattr(arguments, name), message))
    return found


def _check_adapters(arguments: argparse.Namespace) -> list[Violation]:
    names = [line.partition("=")[0] for line in arguments.adapter]
    found = []
    for line, name in zip(arguments.adapter, names, strict=True):
        if not name or not line.partition("=")[2]:
            found.append(_violation("--adapter", line, "must be NAME=PATH"))
        elif names.count(name) > 1 or name == arguments.served_model_name:
            found.append(_violation("--adapter", line, "has a name that is given twice", "Use another name."))
    return found


def _violation(path: str, value: object, message: str, fix: str = "") -> Violation:
    return Violation(path=path, value=value, message=message, fix=fix)


if __name__ == "__main__":
    sys.exit(main())

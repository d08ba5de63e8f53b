"""Verify that every parallel layout and engine matches a single-process run on the same weights and data.

    trireme certify                                       the standard matrix
    trireme certify OVERRIDES 'layouts=[tp2.sp,pp2 zero0]'
    trireme certify OVERRIDES                             the layout of the overrides

Prints a table, and writes certificate.json and certificate.html (certify.output_dir).
docs/training/layout_equivalence.md explains what is compared and how the bounds are derived. Exit codes: 0 all layouts
pass, 1 a layout fails, 2 invalid configuration or input, 130 interrupted.
"""

import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer.certificate.processes import WORKER_MODULE
from trireme.command import run_command, write_output
from trireme.cores import count_cores
from trireme.errors import EXIT_OK
from trireme.logging import configure_logging
from trireme.stop_signals import unwinding_on_signals

_LOGGER = logging.getLogger(__name__)

EXIT_FAILED = 1


def main() -> int:
    """Run the command."""
    configure_logging(rank=0)
    return run_command(lambda: run(sys.argv[1:]))


def run(arguments: Sequence[str], *, worker_module: str = WORKER_MODULE) -> int:
    """Check the request, run and compare its layouts, and report.

    Args:
        worker_module: the module that every process of a layout runs.
    Returns:
        The exit code.
    Raises:
        ConfigError: the settings or a layout are invalid.
    """
    if {"--help", "-h"} & set(arguments):
        write_output((__doc__ or "").lstrip())
        return EXIT_OK
    # Late: they import PyTorch, which --help does not need.
    import torch  # noqa: PLC0415 - see above

    from trainer.certificate.certifier import Certifier  # noqa: PLC0415 - see above
    from trainer.certificate.processes import Starter  # noqa: PLC0415 - see above
    from trainer.certificate.report import render_table, write_report  # noqa: PLC0415 - see above
    from trainer.certificate.request import read_request  # noqa: PLC0415 - see above

    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else None
    request = read_request(arguments, num_devices=num_devices)
    output_dir = Path(request.settings.output_dir)
    starter = Starter(
        folder=output_dir / "logs",
        timeout_seconds=request.settings.timeout_seconds,
        worker_module=worker_module,
        # On a CPU, each process has one thread; accelerators are not shared.
        max_processes=count_cores() if num_devices is None else 1,
    )
    with tempfile.TemporaryDirectory(prefix="trireme-certify-") as folder, unwinding_on_signals():
        certificate = Certifier(request, starter=starter, folder=Path(folder)).issue()
    for path in write_report(certificate, folder=output_dir):
        _LOGGER.info("Wrote %s.", path)
    write_output(render_table(certificate))
    return EXIT_OK if certificate.is_passed else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())

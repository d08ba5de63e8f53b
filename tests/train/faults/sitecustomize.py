"""Python runs this at its start when its folder is in PYTHONPATH: one rank of a real run goes wrong.

TRIREME_TEST_FAULT=WHAT:RANK:STEP; see `_at_step`. Each rank takes itself to be on a host of its own. Ranks are forked
from their launcher, which has no rank itself: the fault is planted once they know theirs.
"""

import os
import signal
import socket
import sys
import threading
import time


def _hold_everyone_up():
    time.sleep(100_000)


def _at_step(what, loop, is_first):
    if what == "raise" and is_first:
        raise ZeroDivisionError("planted")
    if what == "hang" and is_first:
        _hold_everyone_up()
    if what == "slow":
        time.sleep(0.15)
    if what == "flip" and is_first:
        parameter = next(loop._engine._chunks[0].parameters())
        parameter.data.view(-1)[7] += 1e-7


def _stop_validation(loop, step):
    evaluate, calls = loop._engine.evaluate, []

    def evaluate_and_stop(*args):
        calls.append(loop.progress.step)
        if calls == [step, step]:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # the signal is taken by then
        assert calls.count(step) <= 2, "the validation goes on"
        return evaluate(*args)

    loop._engine.evaluate = evaluate_and_stop


def _plant(what, rank, step):
    while "RANK" not in os.environ:
        time.sleep(0.01)
    if os.environ["RANK"] != rank:
        return
    module = None
    while not hasattr(module, "TrainLoop"):
        time.sleep(0.01)
        module = sys.modules.get("trainer.loop.train_loop")
    take_step = module.TrainLoop._take_step

    def take_step_wrongly(self, *arguments):
        if "train_step" not in vars(self._engine):
            train_step = self._engine.train_step

            def train_step_wrongly(*args, **kwargs):
                if self.progress.step + 1 >= step:
                    _at_step(what, self, self.progress.step + 1 == step)
                return train_step(*args, **kwargs)

            self._engine.train_step = train_step_wrongly
            if what == "stop_validation":
                _stop_validation(self, step)
        return take_step(self, *arguments)

    module.TrainLoop._take_step = take_step_wrongly


def _start():
    what, rank, step = os.environ["TRIREME_TEST_FAULT"].split(":")
    threading.Thread(target=_plant, args=(what, rank, int(step)), daemon=True).start()


if "TRIREME_TEST_FAULT" in os.environ:
    _gethostname = socket.gethostname
    socket.gethostname = lambda: "n" + os.environ["RANK"] if "RANK" in os.environ else _gethostname()
    if "RANK" in os.environ:
        _start()
    else:
        os.register_at_fork(after_in_child=_start)

"""Python runs this at its start when its folder is in PYTHONPATH: one rank of a real run goes wrong.

TRIREME_TEST_FAULT=WHAT:RANK:STEP; see `_at_step`. Each rank takes itself to be on a host of its own.
"""

import os
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


def _plant(what, rank, step):
    module = None
    while not hasattr(module, "TrainLoop"):
        time.sleep(0.01)
        module = sys.modules.get("trainer.loop.train_loop")
    take_step = module.TrainLoop._take_step

    def take_step_wrongly(self):
        if "train_step" not in vars(self._engine):
            train_step = self._engine.train_step

            def train_step_wrongly(*args, **kwargs):
                if self.progress.step + 1 >= step:
                    _at_step(what, self, self.progress.step + 1 == step)
                return train_step(*args, **kwargs)

            self._engine.train_step = train_step_wrongly
        return take_step(self)

    module.TrainLoop._take_step = take_step_wrongly


if "TRIREME_TEST_FAULT" in os.environ:
    if "RANK" in os.environ:
        socket.gethostname = lambda: "n" + os.environ["RANK"]
    _what, _rank, _step = os.environ["TRIREME_TEST_FAULT"].split(":")
    if os.environ.get("RANK") == _rank:
        threading.Thread(target=_plant, args=(_what, _rank, int(_step)), daemon=True).start()

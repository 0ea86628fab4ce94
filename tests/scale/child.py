"""Runs the command line as one process of a distributed training, with accidents on demand.

usage: child.py devices die_at arguments…
"""

import os
import signal
import sys

devices, die_at = int(sys.argv[1]), int(sys.argv[2])
if devices > 1:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
    tf.config.set_logical_device_configuration(cpu, parts)
if die_at:
    from modelcut.engines.keras.trainer import KerasTrainer

    run = KerasTrainer.run
    calls = []

    def mortal(self, rows, rates):
        calls.append(1)
        if len(calls) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, rows, rates)

    KerasTrainer.run = mortal

from modelcut.cli.main import main  # noqa: E402 - devices are set before TensorFlow starts

main(sys.argv[3:])

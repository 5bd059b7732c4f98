"""One against two training machines, on loopback: images/s, and bytes over the network a step.

    python tests/benchmarks/scaling.py [--runtime tf1|tf2] [--batch 8 64] [--data DIR] [--size 128]

Each training process is held to one core, so that two of them have twice the cores of one; the parameter server takes
what is left. From the bytes and the step it works out what more machines on 10 Gbit/s would give.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile

import common

NETWORK = 10e9 / 8  # bytes/s of each machine, each way
MACHINES = (1, 2, 8, 64)


def carried():
    """Bytes that the loopback interface has carried so far."""
    with open('/proc/net/dev') as file:
        return next(int(line.split(':')[1].split()[0]) for line in file if line.strip().startswith('lo:'))


def ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(('127.0.0.1', 0))
    names = ['127.0.0.1:%d' % each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return names


def train(runtime, workers, arguments):
    """(images/s of the second epoch, bytes a step) with one parameter server."""
    names = ports(workers + 1)
    cluster = {'ps': names[:1], 'worker': names[1:]}
    before = carried()
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for job, index in [('ps', 0)] + [('worker', i) for i in range(workers)]:
            cores = range(os.cpu_count()) if job == 'ps' else [index % os.cpu_count()]
            processes.append(subprocess.Popen(
                [common.python(runtime), os.path.join(common.ROOT, 'run.py')] + [str(a) for a in arguments], cwd=folder,
                preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores), stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=dict(os.environ, TF_CONFIG=json.dumps(
                    {'cluster': cluster, 'task': {'type': job, 'index': index}}))))
        if any([process.wait() for process in processes]):
            sys.exit('a process failed')
        rows = common.read_table(os.path.join(folder, 'results', 'loss.csv'))
        return float(rows[-1]['images_per_second']), (carried() - before) / float(rows[-1]['iteration'])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--runtime', choices=('tf1', 'tf2'), default='tf1')
    parser.add_argument('--batch', type=int, nargs='+', default=[8, 64])
    parser.add_argument('--data', help='folder of images (default: the packaged faces)')
    parser.add_argument('--size', type=int, default=128)
    options = parser.parse_args()
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    import datamanager
    import neuralnet
    with tempfile.TemporaryDirectory() as cache:
        channels = datamanager.Dataset(options.data and os.path.abspath(options.data), (options.size, options.size),
                                       cache=cache).shape[2]
    network = neuralnet.ContextEncoder((options.size, options.size, channels))
    weights = 4 * sum(network.parameters)
    rows, plan = [], []
    for batch in options.batch:
        arguments = ['--size', options.size, '--init', 'none', '--epoch', 2, '--batch', batch] + (
            ['--data', os.path.abspath(options.data)] if options.data else [])
        (one, one_bytes), (two, two_bytes) = [train(options.runtime, workers, arguments) for workers in (1, 2)]
        rows.append((batch, '%.1f' % one, '%.1f' % two, '%.2f' % (two / one), '%.0f' % (one_bytes / 1e6),
                     '%.0f' % (two_bytes / 1e6)))
        pictures = batch * options.size ** 2 * channels
        for machines in MACHINES:
            # Weights out of, and gradients into, each parameter server, both ways at once; or the chief's pictures.
            seconds = [batch / one + max(machines * weights / servers, machines * pictures) / NETWORK
                       for servers in (1, max(1, machines // 4))]
            plan.append([batch, machines] + ['%.0f (%.0f %%)' % (machines * batch / s, 100 * batch / one / s) for s in seconds])
    print('Weights of both players: %.1f MB. Measured here, %s, %dx%dx%d, one core a worker:\n' % (
        weights / 1e6, options.runtime, options.size, options.size, channels))
    print(common.table(['batch a worker', '1 worker, images/s', '2 workers, images/s', 'ratio', 'MB a step, 1 worker',
                        'MB a step, 2 workers'], rows))
    print('\nOn paper, workers as fast as that one core, 10 Gbit/s, computing and sending in turn: images/s (efficiency)\n')
    print(common.table(['batch a worker', 'machines', '1 parameter server', '1 for each 4 machines'], plan))


if __name__ == '__main__':
    main()

"""Several processes on loopback, as TF_CONFIG describes them, each `python run.py`."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from conftest import ROOT, run
from extras import machines
from extras.machines import Cluster
from tf_process import RunError


LONG = '--size', 32, '--adv_weight', 0, '--epoch', 9999  # soon built; longer than any test waits
# Nobody answers there: what is sent to it, instead of to another machine, is lost.
PROXIES = dict.fromkeys(('http_proxy', 'https_proxy', 'grpc_proxy'), 'http://127.0.0.1:9')


def addresses(**numbers):
    """A cluster of so many tasks of each job, on free ports."""
    sockets, cluster = [], {}
    for job, number in numbers.items():
        for _ in range(number):
            sockets.append(socket.socket())
            sockets[-1].bind(('127.0.0.1', 0))
            cluster.setdefault(job, []).append('127.0.0.1:%d' % sockets[-1].getsockname()[1])
    for each in sockets:
        each.close()
    return cluster


class Machines:
    """The processes of a cluster in one folder; what they print goes to JOB_INDEX.log there."""

    def __init__(self, folder, cluster, *arguments):
        self.folder, self.cluster, self.arguments, self.processes = folder, cluster, [str(a) for a in arguments], {}

    def start(self, job, index=0):
        config = json.dumps({'cluster': self.cluster, 'task': {'type': job, 'index': index}})
        with open(str(self.folder / ('%s_%d.log' % (job, index))), 'ab') as log:
            self.processes[job, index] = subprocess.Popen(
                [sys.executable, os.path.join(ROOT, 'run.py')] + self.arguments, cwd=str(self.folder),
                env=dict(os.environ, TF_CONFIG=config, **PROXIES), stdout=log, stderr=log)

    def said(self, job, index=0):
        return (self.folder / ('%s_%d.log' % (job, index))).read_text()

    def wait_for(self, words, job, index=0, seconds=120, times=1):
        until = time.time() + seconds
        while self.said(job, index).count(words) < times:
            assert time.time() < until and self.processes[job, index].poll() is None, self.said(job, index)
            time.sleep(.1)

    def wait(self, job, index=0, seconds=200):
        try:
            return self.processes[job, index].wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said(job, index))

    def kill(self, job, index=0):
        self.processes[job, index].kill()
        self.processes[job, index].wait()

    def __enter__(self):
        for job in sorted(self.cluster):
            for index in range(len(self.cluster[job])):
                self.start(job, index)
        return self

    def __exit__(self, *error):
        for process in self.processes.values():
            process.kill()
            process.wait()


def newest(folder):
    """(weights by name, the sums over the epoch) of a folder's newest checkpoint."""
    reader = tf.train.load_checkpoint(str(folder / 'checkpoints'))
    names = [name for name in reader.get_variable_to_shape_map() if name.split('/')[0] in ('generator', 'discriminator')]
    weights = {name: reader.get_tensor(name) for name in names if not re.search('adam|momentum', name)}
    return weights, reader.get_tensor('totals')


def test_two_workers_and_a_parameter_server_train_and_end_by_themselves(tmp_path):
    with Machines(tmp_path, addresses(ps=1, worker=2), '--size', 32, '--epoch', 2, '--batch', 8) as machines:
        assert [machines.wait(*task) for task in (('worker', 0), ('worker', 1), ('ps', 0))] == [0, 0, 0]
        assert 'test of 40 faces' in machines.said('worker', 0)  # the chief, where none is named
        for task in (('worker', 1), ('ps', 0)):
            assert 'the chief has finished' in machines.said(*task)
    log = (tmp_path / 'results' / 'loss.csv').read_text().split()
    assert [row.split(',')[:2] for row in log[1:]] == [['1', '23'], ['2', '46']]
    assert len(list((tmp_path / 'results' / 'test').glob('*.png'))) == 40
    assert newest(tmp_path)[1][-1] == 360  # images seen in the last epoch


def test_two_workers_end_with_the_weights_of_one_with_twice_the_batch(tmp_path, colour_faces):
    alone, together = tmp_path / 'alone', tmp_path / 'together'
    alone.mkdir()
    together.mkdir()
    options = ['--data', colour_faces, '--size', 32, '--epoch', 2, '--lr', 1e-4, '--precision', 'float32']
    assert run(alone, '--batch', 16, *options).returncode == 0
    with Machines(together, addresses(chief=1, ps=2, worker=1), '--batch', 8, *options) as machines:
        assert machines.wait('chief') == 0
    (one, _), (two, _) = newest(alone), newest(together)
    assert sorted(one) == sorted(two) and len(one) > 50
    for name in one:  # six steps, of about 1e-4 each
        np.testing.assert_allclose(one[name], two[name], atol=5e-5, err_msg=name)


def test_lost_machines(tmp_path, colour_faces):
    with Machines(tmp_path, addresses(chief=1, ps=1, worker=1), '--data', colour_faces, *LONG) as machines:
        machines.wait_for('epoch 1:', 'chief')
        machines.kill('worker')
        machines.wait_for('worker 0', 'chief')  # is lost
        machines.start('worker')
        machines.wait_for('going on from', 'chief')
        machines.wait_for('epoch 3:', 'chief')
        machines.kill('chief')
        machines.start('chief')
        machines.wait_for('epoch 6:', 'chief')
        machines.kill('worker')
        machines.wait_for('worker 0', 'chief', times=2)
        machines.kill('ps')
        assert machines.wait('chief', seconds=20) == 2  # though nobody is left
        said = machines.said('chief')
        assert 'parameter server ps 0' in said and 'same commands' in said and 'Traceback' not in said
    epochs = [int(row.split(',')[0]) for row in (tmp_path / 'results' / 'loss.csv').read_text().split()[1:]]
    assert epochs == list(range(1, len(epochs) + 1)) and len(epochs) >= 6


def test_sigterm_to_the_chief_saves_and_ends_the_others(tmp_path, colour_faces):
    cluster = addresses(master=1, ps=1, worker=1, evaluator=1)  # as older trainers name the chief
    with Machines(tmp_path, cluster, '--data', colour_faces, *LONG) as machines:
        machines.wait_for('images/s', 'master')
        machines.processes['master', 0].send_signal(signal.SIGTERM)
        assert [machines.wait(job) for job in ('master', 'ps', 'worker', 'evaluator')] == [143, 0, 0, 0]
        assert 'evaluator has nothing to do' in machines.said('evaluator')
    assert list((tmp_path / 'checkpoints').glob('model-*.index'))


def test_a_signal_ends_a_chief_that_waits_for_others(tmp_path, colour_faces):
    machines = Machines(tmp_path, addresses(chief=1, ps=1, worker=1), '--data', colour_faces, *LONG)
    machines.start('chief')
    machines.wait_for('waiting for ps 0', 'chief')
    machines.processes['chief', 0].send_signal(signal.SIGINT)
    assert machines.wait('chief', seconds=20) == 130
    with machines:
        machines.wait_for('epoch 1:', 'chief')
        machines.kill('worker')
        machines.processes['chief', 0].send_signal(signal.SIGTERM)
        assert [machines.wait(job, seconds=20) for job in ('chief', 'ps')] == [143, 0]
    assert machines.said('chief').count('\nstopped') == 2 and 'Traceback' not in machines.said('chief')


@pytest.mark.parametrize('text', [
    None, '{}', '{"cluster": {}, "task": {"type": "master", "index": 0}}', '{"cluster": {"chief": ["a:1"]}}',
    '{"cluster": {"worker": ["a:1"], "ps": []}, "task": {"type": "worker", "index": "0"}}',
    '{"cluster": {"master": ["a:1"], "evaluator": ["b:2"]}, "task": {"type": "master"}}'])
def test_one_machine_trains_alone(text):
    cluster = Cluster(text)
    assert cluster.chief and cluster.devices == [None] and cluster.run(lambda session: session.graph) is tf.get_default_graph()


ONE = '"task": {"type": "worker", "index": 0}'


@pytest.mark.parametrize('text,words', [
    ('chief', 'JSON'),
    ('{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}}', '"task" is missing'),
    ('{"cluster": {"worker": ["a:1", "b:2"]}, %s}' % ONE, '"ps" is missing'),
    ('{"cluster": {"ps": ["a:1"]}, %s}' % ONE, 'neither "chief" nor "worker"'),
    ('{"cluster": {"ps": ["a:1"], "worker": ["b"]}, %s}' % ONE, 'HOST:PORT'),
    ('{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}, "task": {"type": "worker", "index": 1}}', 'no task worker 1'),
    ('{"cluster": {"chief": ["b:2"]}, %s}' % ONE, 'no task worker 0'),
    ('{"cluster": {"ps": ["a:1"], "worker": ["b:2"], "tpu": ["c:3"]}, %s}' % ONE, 'unknown in the cluster: tpu'),
])
def test_a_wrong_tf_config_gets_a_sentence(text, words):
    with pytest.raises(RunError, match='^TF_CONFIG: .*%s.*: give {' % words):
        Cluster(text)


def test_a_port_that_is_taken_gets_a_sentence(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen(1)
        monkeypatch.setenv('TF_CONFIG', '{"cluster": {"ps": ["127.0.0.1:1"], "worker": ["127.0.0.1:%d"]}, %s}' % (
            taken.getsockname()[1], ONE))
        process = run(tmp_path, '--size', 32, python=sys.executable)
    assert process.returncode == 2 and process.stderr.count('\n') == 1, process.stderr
    assert 'port' in process.stderr and 'TF_CONFIG' in process.stderr


def test_bfloat16_is_for_one_machine_with_tensorflow_2():
    alone = Cluster()
    assert machines.precision('float32', alone) == tf.float32 and machines.precision('auto', alone) in (tf.float32, tf.bfloat16)
    if tf.__version__ < '2':
        with pytest.raises(RunError, match='needs TensorFlow 2'):
            machines.precision('bfloat16', alone)
        return
    assert machines.precision('bfloat16', alone) == tf.bfloat16
    alone.devices = ['/job:worker/task:0', '/job:worker/task:1']
    assert machines.precision('auto', alone) == tf.float32
    with pytest.raises(RunError, match='single machine'):
        machines.precision('bfloat16', alone)

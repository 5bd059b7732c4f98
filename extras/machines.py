"""What a training runs on: a precision, GPUs, or several machines, as TF_CONFIG describes them, served and watched."""
import json
import os
import re
import signal
import socket
import sys
import threading
import time

import tensorflow.compat.v1 as tf

from tf_process import LOST, RunError, open_session, session_config


class Cluster:
    """This process's part among the machines of TF_CONFIG, the variable that TFJob and the cloud trainers set.

    text: its value, {"cluster": {"chief": [ADDRESS], "worker": [...], "ps": [...]}, "task": {"type": .., "index": ..}}
          with addresses HOST:PORT; without a chief, worker 0 is. None: this machine alone.

    Training is synchronous, by in-graph replication: the chief alone runs the loop, on one graph that spans all. The
    weights live on the parameter servers ('ps'); chief and workers each compute the gradients of their share of every
    batch. So every machine but the chief only serves, needs no data, and may be lost and come back.

    Attributes: chief, whether this process runs the loop; devices, those that train, and placement, for all else, as
    ContextEncoder and tf.device take them. Raises RunError where TF_CONFIG is wrong or the port is taken.
    """

    def __init__(self, text=None):
        self.chief, self.devices, self.placement, self._target, self._addresses = True, [None], None, '', {}
        if not text:
            return
        jobs, self._me = self._read(text)
        self._addresses = {(job, index): address for job in jobs for index, address in enumerate(jobs[job])}
        trainers = [task for job in ('chief', 'worker') for task in sorted(self._addresses) if task[0] == job]
        self.chief = self._me == trainers[0]
        self.devices = [tf.train.replica_device_setter(cluster=jobs, worker_device=self._device(task))
                        for task in trainers]
        self.placement = self.devices[0]
        try:
            with socket.socket() as probe:  # TensorFlow would say more than a user can read
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(('', int(self._addresses[self._me].rsplit(':', 1)[1])))
            self._server = tf.train.Server(tf.train.ClusterSpec(jobs), *self._me, config=session_config())
        except (OSError, OverflowError, tf.errors.OpError):
            raise RunError('%s: the port cannot be opened, another program may be using it: name another in '
                           'TF_CONFIG' % self._addresses[self._me])
        self._target = self._server.target

    @staticmethod
    def _read(text):
        """({job: [addresses]}, (job, index)) of TF_CONFIG."""
        wrong = ('TF_CONFIG: %s: give {"cluster": {"chief": ["HOST:PORT"], "worker": [..], "ps": [..]}, '
                 '"task": {"type": "ps", "index": 0}}')
        try:
            config = json.loads(text)
            jobs = {job: [str(address) for address in addresses]
                    for job, addresses in config['cluster'].items() if addresses}
            task = config['task']['type'], int(config['task'].get('index', 0))
        except ValueError:
            raise RunError(wrong % 'not JSON')
        except (KeyError, TypeError, AttributeError):
            raise RunError(wrong % '"cluster" or "task" is missing or no such thing')
        for problem, found in (
                ('"ps" is missing from the cluster', 'ps' not in jobs),
                ('neither "chief" nor "worker" is in the cluster', not {'chief', 'worker'} & set(jobs)),
                ('jobs other than chief, worker and ps', set(jobs) - {'chief', 'worker', 'ps'}),
                ('an address is not HOST:PORT', not all(
                    re.match(r'.+:\d{1,5}$', address) for addresses in jobs.values() for address in addresses)),
                ('there is no task %s %d in the cluster' % task, not 0 <= task[1] < len(jobs.get(task[0], ())))):
            if found:
                raise RunError(wrong % problem)
        return jobs, task

    @staticmethod
    def _device(task):
        return '/job:%s/task:%d' % task

    def _named(self, task):
        return '%s %d at %s' % (task + (self._addresses[task],))

    def _lost(self):
        """The tasks, sorted, that do not answer at their address."""
        lost = []
        for task, address in sorted(self._addresses.items()):
            try:
                socket.create_connection(address.rsplit(':', 1), timeout=5).close()
            except OSError:
                lost.append(task)
        return lost

    def _finished(self, task):
        """The queue on a task's machine that tells it, by an element, that the chief has finished."""
        with tf.device(self._device(task)):
            return tf.FIFOQueue(1, tf.int32, shared_name='finished')

    def serve(self):
        """Compute, or keep weights, for the chief; ends this process when the chief has finished."""
        for number in (signal.SIGINT, signal.SIGTERM):  # Python's handlers would wait for the chief, too
            signal.signal(number, signal.SIG_DFL)
        name = self._named(self._me)
        print(name + ' serves until the chief has finished')
        with tf.Session(self._target, config=session_config(self._device(self._me))) as session:
            session.run(self._finished(self._me).dequeue())
            print(name + ': the chief has finished')
            time.sleep(1)  # while the chief is still being answered
            sys.stdout.flush()
            os._exit(0)    # TensorFlow's servers cannot be closed

    def _watch(self):
        """Say when a machine is lost; end the job where it kept weights.

        In a thread: session.run waits for some of them for ever.
        """
        before = []
        while True:
            time.sleep(1)
            lost = self._lost()
            for task in lost:
                name = self._named(task)
                if task[0] == 'ps' and task in before:  # twice in a row
                    print('error: the parameter server %s is lost: start all processes again with the same commands, '
                          'they go on from the newest checkpoint' % name, file=sys.stderr, flush=True)
                    self.release()
                    os._exit(2)
                if task not in before:
                    print('%s is lost: waiting for it to come back' % name)
            before = lost

    def run(self, work):
        """work(session), and again each time that a machine was lost meanwhile, from the newest checkpoint."""
        if self._addresses:
            waited = 0
            while self._lost():
                if waited == 3:
                    print('waiting for ' + ', '.join(self._named(task) for task in self._lost()))
                waited += 1
                time.sleep(1)
            threading.Thread(target=self._watch, daemon=True).start()
        while True:
            try:
                with open_session(self._target) as session:
                    return work(session)
            except LOST:
                if not self._addresses:
                    raise
                while self._lost():
                    time.sleep(1)
                print('all machines are there: going on from the newest checkpoint')

    def release(self):
        """Tell all others that the chief has finished."""
        if self._addresses and self.chief:
            there = [task for task in sorted(set(self._addresses) - set(self._lost())) if task != self._me]
            with tf.Graph().as_default():
                finish = [self._finished(task).enqueue(0) for task in there]
                filters = [self._device(task) for task in there + [self._me]]
                session = tf.Session(self._target, config=session_config(*filters))
                try:
                    session.run(finish, options=tf.RunOptions(timeout_in_ms=5000))
                except tf.errors.OpError:  # they may end before they have answered
                    pass


def precision(asked):
    """The type that convolutions compute in: tf.float32 or tf.bfloat16, as asked for; 'auto': what is faster here.

    bfloat16 needs TensorFlow 2, and is faster on processors that have instructions for it. On a GPU nothing was tried, so
    there 'auto' is float32. Raises RunError where it is asked for on TensorFlow 1.
    """
    if asked == 'bfloat16' and tf.__version__ < '2':
        raise RunError('--precision bfloat16 needs TensorFlow 2: use RUNTIME=tf2, or leave it out')
    if asked == 'auto':
        fast = tf.__version__ >= '2' and not gpus() and re.search(r'\b(avx512_bf16|amx_bf16)\b', _processor())
        return tf.bfloat16 if fast else tf.float32
    return tf.as_dtype(asked)


def gpus():
    """Names of this machine's GPUs that TensorFlow sees."""
    with tf.Graph().as_default(), tf.Session(config=session_config()) as session:
        return [device.name for device in session.list_devices() if device.device_type == 'GPU']


def _processor():
    """What Linux says of the processor; '' elsewhere."""
    try:
        with open('/proc/cpuinfo') as file:
            return file.read()
    except OSError:
        return ''

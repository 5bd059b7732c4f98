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

from tf_process import LOST, RunError, ends, open_session, session_config

AGAIN = 'start all processes again with the same commands, they go on from the newest checkpoint'


def at_once(function, tasks, seconds):
    """function(task) for all tasks at once; returns after so many seconds at most, though some may go on."""
    threads, until = [threading.Thread(target=function, args=[task], daemon=True) for task in tasks], time.time() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, until - time.time()))


class Cluster:
    """This process's part among the machines of TF_CONFIG, the variable that TFJob and the cloud trainers set.

    text: its value, {"cluster": {"chief": [ADDRESS], "worker": [...], "ps": [...]}, "task": {"type": .., "index": ..}}
          with addresses HOST:PORT; without a chief, worker 0 is; an older name of the chief is master. None, or a
          cluster of no more than one machine: this machine alone.

    Training is synchronous, by in-graph replication: the chief alone runs the loop, on one graph that spans all. The
    weights live on the parameter servers ('ps'); chief and workers each compute the gradients of their share of every
    batch. So every machine but the chief only serves, needs no data, and may be lost and come back. An evaluator has
    nothing to do, since the chief tests.

    Attributes: chief, whether this process runs the loop; devices, those that train, and placement, for all else, as
    ContextEncoder and tf.device take them. Raises RunError where TF_CONFIG is wrong or the port is taken.
    """

    def __init__(self, text=None):
        self.chief, self.devices, self.placement, self._target, self._addresses = True, [None], None, '', {}
        self._working, self._released = False, threading.Event()
        jobs, self._me = self._read(text or '{}')
        if not jobs:
            self.chief = self._me[0] != 'evaluator'
            return
        self._addresses = {(job, index): address for job in jobs for index, address in enumerate(jobs[job])}
        trainers = [task for job in ('chief', 'worker') for task in sorted(self._addresses) if task[0] == job]
        self.chief = self._me == trainers[0]
        self.devices = [tf.train.replica_device_setter(cluster=jobs, worker_device=self._device(task))
                        for task in trainers]
        self.placement = self.devices[0]
        hosts = [address.rsplit(':', 1)[0] for address in self._addresses.values()]
        for name in ('no_proxy', 'no_grpc_proxy'):  # else TensorFlow asks http_proxy for them, and waits for ever
            os.environ[name] = ','.join(filter(None, [os.environ.get(name)] + hosts))
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
        """({job: [addresses]}, (job, index)) of TF_CONFIG; no jobs where this machine trains with no others."""
        wrong = ('TF_CONFIG: %s: give {"cluster": {"chief": ["HOST:PORT"], "worker": [..], "ps": [..]}, '
                 '"task": {"type": "ps", "index": 0}}')
        try:
            config = json.loads(text)
            cluster = config.get('cluster') or {}
            older = {} if 'chief' in cluster else {'master': 'chief'}
            jobs = {older.get(job, job): [str(address) for address in addresses]
                    for job, addresses in cluster.items() if addresses and job != 'evaluator'}
            alone = sum(map(len, jobs.values())) < 2 and 'ps' not in jobs
            task = config.get('task') or ({'type': next(iter(jobs), 'chief')} if alone else {})
            me = older.get(task['type'], task['type']), int(task.get('index', 0))
        except ValueError:
            raise RunError(wrong % 'not JSON, or an index is no number')
        except (KeyError, TypeError, AttributeError):
            raise RunError(wrong % '"cluster" or "task" is missing or no such thing')
        unknown = ', '.join(sorted(set(jobs) - {'chief', 'worker', 'ps'}))
        for problem, found in (
                ('unknown in the cluster: ' + unknown, unknown),
                ('"ps" is missing from the cluster', not alone and 'ps' not in jobs),
                ('neither "chief" nor "worker" is in the cluster', jobs and not {'chief', 'worker'} & set(jobs)),
                ('an address is not HOST:PORT', not all(
                    re.match(r'.+:\d{1,5}$', address) for addresses in jobs.values() for address in addresses)),
                ('there is no task %s %d in the cluster' % me,
                 jobs and me[0] != 'evaluator' and not 0 <= me[1] < len(jobs.get(me[0], ())))):
            if found:
                raise RunError(wrong % problem)
        return {} if alone or me[0] == 'evaluator' else jobs, me

    @staticmethod
    def _device(task):
        return '/job:%s/task:%d' % task

    def _named(self, task):
        return '%s %d at %s' % (task + (self._addresses[task],))

    def _lost(self):
        """The tasks, sorted, that do not answer at their address."""
        there = set()

        def ask(task):
            try:
                socket.create_connection(self._addresses[task].rsplit(':', 1), timeout=5).close()
                there.add(task)
            except OSError:
                pass
        at_once(ask, self._addresses, 15)
        return sorted(set(self._addresses) - there)

    def _finished(self, task):
        """The queue on a task's machine that tells it, by an element, that the chief has finished."""
        with tf.device(self._device(task)):
            return tf.FIFOQueue(1, tf.int32, shared_name='finished')

    def serve(self):
        """Compute, or keep weights, for the chief; ends this process when the chief has finished."""
        if self._me[0] == 'evaluator':
            print('the chief tests after each epoch itself: this evaluator has nothing to do')
            sys.exit()
        for number in ends():  # Python's handlers would wait for the chief, too
            signal.signal(number, signal.SIG_DFL)
        name = self._named(self._me)
        print(name + ' serves until the chief has finished')
        with tf.Session(self._target, config=session_config(self._device(self._me))) as session:
            session.run(self._finished(self._me).dequeue())
            print(name + ': the chief has finished')
            time.sleep(1)  # while the chief is still being answered
            sys.stdout.flush()
            os._exit(0)    # TensorFlow's servers cannot be closed

    def _watch(self, heard):
        """Say who is missing; end this process where a machine that kept weights is lost, or where a signal is heard
        that the main thread cannot follow. heard: socket that gets the signals' numbers.

        In a thread: session.run waits for some machines for ever, and Python's signal handlers wait for session.run.
        """
        lost, there, signals, rounds = [], set(), b'', 0
        while not self._released.wait(1):
            if signals and (lost or not self._working or len(signals) > 1):  # else the step ends, and all is saved
                self._end(128 + signals[0], '\nstopped: ' + AGAIN)
            try:
                signals += heard.recv(8)
            except BlockingIOError:
                pass
            before, lost, rounds = lost, self._lost(), rounds + 1
            there |= set(self._addresses) - set(lost)
            if rounds == 3 and len(there) < len(self._addresses):
                print('waiting for ' + ', '.join(self._named(task) for task in sorted(set(self._addresses) - there)))
            for task in sorted(there.intersection(lost)):
                if task[0] == 'ps':
                    if task in before:  # twice in a row
                        self._end(2, 'error: the parameter server %s is lost: %s' % (self._named(task), AGAIN))
                elif task not in before:
                    print('%s is lost: waiting for it to come back' % self._named(task))

    def _end(self, status, sentence):
        """End this process, whose main thread may wait for others for ever."""
        print(sentence, file=sys.stderr)
        self.release()
        sys.stdout.flush()
        os._exit(status)

    def run(self, work):
        """work(session), and again each time that a machine was lost meanwhile, from the newest checkpoint."""
        if self._addresses:
            heard, self._told = socket.socketpair()
            for end in (heard, self._told):
                end.setblocking(False)
            signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=[heard], daemon=True).start()
        while True:
            while self._lost():
                time.sleep(1)
            if self._working:
                print('all machines are there: going on from the newest checkpoint')
            self._working = False
            try:
                with open_session(self._target) as session:
                    self._working = True
                    return work(session)
            except LOST:
                if not self._addresses:
                    raise

    def release(self):
        """Tell all others that the chief has finished; within seconds, though some may not hear it."""
        self._released.set()
        if self._addresses and self.chief:
            at_once(self._tell, set(self._addresses) - set(self._lost()) - {self._me}, 8)

    def _tell(self, task):
        with tf.Graph().as_default():
            finish = self._finished(task).enqueue(0)
            session = tf.Session(self._target, config=session_config(self._device(task), self._device(self._me)))
            try:
                session.run(finish, options=tf.RunOptions(timeout_in_ms=5000))
            except tf.errors.OpError:  # it may end before it has answered
                pass


def precision(asked, cluster):
    """The type that convolutions compute in: tf.float32 or tf.bfloat16, as asked for; 'auto': what is faster here.

    bfloat16 needs TensorFlow 2 on one machine (a server's convolutions know no such type), and is faster on processors that
    have instructions for it. On a GPU nothing was tried, so there 'auto' is float32. Raises RunError where it cannot be had.
    """
    possible = tf.__version__ >= '2' and cluster.devices == [None]
    if asked == 'bfloat16' and not possible:
        raise RunError('--precision bfloat16 needs TensorFlow 2 and a single machine: use RUNTIME=tf2 without TF_CONFIG, or '
                       'leave it out')
    if asked == 'auto':
        fast = possible and not gpus() and re.search(r'\b(avx512_bf16|amx_bf16)\b', _processor())
        return tf.bfloat16 if fast else tf.float32
    return tf.as_dtype(asked)


def gpus():
    """Names of this machine's GPUs that TensorFlow sees: each trains on its share of every batch, as machines do."""
    with tf.Graph().as_default(), tf.Session(config=session_config()) as session:
        return [device.name for device in session.list_devices() if device.device_type == 'GPU']


def _processor():
    """What Linux says of the processor; '' elsewhere."""
    try:
        with open('/proc/cpuinfo') as file:
            return file.read()
    except OSError:
        return ''

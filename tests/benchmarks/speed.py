"""Speed and memory, beside the student's loop, in turn on the same machine and the same faces.

    python tests/benchmarks/speed.py [--runtime tf1 tf2] [--data DIR] [--size 128] [--batch 64 4] [--pairs 3]
    python tests/benchmarks/speed.py --curves       cost against size, images and files, drawn into docs/
    python tests/benchmarks/speed.py --beside DIR   CPU time of a training step, beside another checkout of the program
    python tests/benchmarks/speed.py --minutes 10   error against minutes of training, drawn into docs/
    python tests/benchmarks/speed.py --photo PHOTO  where the seconds of restoring a photo go, as run.py --restore does it

Prints medians, and ratios to student.py (on TensorFlow 1.14, batch 64).
"""
import argparse
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

import common

FIGURES = (('graph_seconds', 'build the graph, s', -1), ('train_images_per_second', 'training, images/s', 1),
           ('test_seconds_per_image', 'test, s/image', -1), ('peak_mb', 'peak memory, MB', -1),
           ('first_step_cold', 'first step, cold cache, s', 0), ('first_step_warm', 'first step, warm cache, s', 0),
           ('outside_run', 'share of a step outside session.run', 0),
           ('matmul_gflops', 'one large tf.matmul, GFLOP/s', 0))  # name in JSON, in the table, better upwards or not


# ------------------------------------------------------------------------------- in a process of its own: measure

def matmul_gflops(side=2048, seconds=3):
    import tensorflow.compat.v1 as tf
    with tf.Graph().as_default(), tf.Session() as session:
        a = tf.Variable(tf.random_normal([side, side]))
        product = tf.reduce_sum(tf.matmul(a, a))
        session.run(tf.global_variables_initializer())
        session.run(product)
        began, runs = time.time(), 0
        while time.time() - began < seconds:
            session.run(product)
            runs += 1
        return 2. * side ** 3 * runs / (time.time() - began) / 1e9


def measure(data, size, batch):
    """One epoch and one test, as run.py does them; a dictionary of FIGURES."""
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    import datamanager
    import neuralnet
    import run as front_door
    import tf_process
    dataset = datamanager.Dataset(data, (size, size), vary=front_door.parse([]).vary)
    began = time.time()
    network = neuralnet.ContextEncoder(dataset.shape)
    figures, inside = {}, []
    with tf_process.open_session() as session:
        figures['graph_seconds'] = time.time() - began
        original = session.run

        def run(fetches, *args, **kwargs):
            began = time.time()
            result = original(fetches, *args, **kwargs)
            if isinstance(fetches, list) and network.update in fetches:
                inside.append(time.time() - began)
            return result
        session.run = run
        os.makedirs('checkpoints')
        tf_process.training(session, network, dataset, 'checkpoints', 'results', epochs=1, batch=batch, learning_rate=1e-3)
        figures['train_images_per_second'] = float(common.read_table('results/loss.csv')[0]['images_per_second'])
        began = time.time()
        tf_process.test(session, network, dataset, 'results')
        figures['test_seconds_per_image'] = (time.time() - began) / len(dataset.test)
    figures['outside_run'] = 1 - sum(inside) * figures['train_images_per_second'] / len(dataset.train)
    figures['peak_mb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    figures['matmul_gflops'] = matmul_gflops()
    return figures


def load(data, size):
    """Make or open the cache, take five steps, gather a whole epoch of batches: seconds and memory."""
    began = time.time()
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    import datamanager
    import neuralnet
    import tf_process
    ready = time.time()
    dataset = datamanager.Dataset(data, (size, size))
    figures = {'cache_seconds': time.time() - ready}
    network = neuralnet.ContextEncoder(dataset.shape)
    with tf_process.open_session() as session:
        for step, (images, mask) in zip(range(5), dataset.epoch(0, 8)):
            session.run(network.update, {network.images: images, network.mask: mask, network.learning_rate: 1e-4})
            figures.setdefault('first_step', time.time() - began)
    for images, mask in dataset.epoch(0, 64):
        pass
    return dict(figures, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def step(root, batch, steps=20):
    """CPU time of a training step, one thread, 128x128x3, by the program in `root`; operations in it; seconds to build it."""
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    sys.path.insert(0, root)
    import neuralnet
    from datamanager import center_mask
    from extras import machines
    options = {'precision': machines.precision('auto', machines.Cluster())} if hasattr(machines, 'precision') else {}  # older ones have none
    began, metadata = time.process_time(), tf.RunMetadata()
    network = neuralnet.ContextEncoder((128, 128, 3), **options)
    figures = {'build_seconds': time.process_time() - began}
    feed = {network.images: np.random.RandomState(0).randint(0, 256, (batch, 128, 128, 3)).astype(np.uint8),
            network.mask: center_mask(128, 128), network.learning_rate: 1e-4}
    one = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    with tf.Session(config=one) as session:
        session.run(tf.global_variables_initializer())
        run = lambda *more: session.run([network.losses, network.update], feed, *more)
        run()
        run(tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE, output_partition_graphs=True), metadata)
        figures['operations'] = sum(len(graph.node) for graph in metadata.partition_graphs)
        began = time.process_time()
        for _ in range(max(steps * 4 // batch, 3)):
            run()
        return dict(figures, step_ms=1000 * (time.process_time() - began) / max(steps * 4 // batch, 3))


def cold(path):
    """{what: seconds} of restoring a photo with the included model, in a process that has done nothing yet."""
    parts, began = {}, time.time()

    def done(what):
        parts[what] = time.time() - began - sum(parts.values())
    import run  # which sets how threads are used
    done('import run.py')
    import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    done('import TensorFlow')
    import neuralnet
    import tf_process
    from extras import faces, models, photos
    done('import all else')
    faces.detector()
    done('load the detector')
    kept = models.settings(models.FINE)
    shape = tuple(kept['size']) + (kept['channels'],)
    photo = photos.Photo(path, 'photo', 'center', shape, faces.find_faces)
    done('read the photo, find its faces')
    network = neuralnet.ContextEncoder(shape, devices=())
    done('build the graph')
    with tf_process.open_session() as session:
        models.load(session, network, models.FINE)
        done('load the weights')
        pixels = photos.paint(session, network, photo)
        done('paint, mend the seam')
        tf_process.write_png('photo.png', pixels)
        done('write the result')
    return parts


# ------------------------------------------------------------------------------------------------ the two tables

def worker(runtime, folder, *arguments):
    """The figures that this file, started anew in `folder` with `arguments`, prints as its last line."""
    return json.loads(common.call((common.python(runtime), os.path.abspath(__file__), '--worker') + arguments,
                                  folder).strip().split('\n')[-1])


def first_step(runtime, folder, *arguments):
    """Seconds from the start of `python run.py` to its first finished step."""
    began = time.time()
    terminal, end = pty.openpty()  # which shows a bar
    process = subprocess.Popen([common.python(runtime), os.path.join(common.ROOT, 'run.py')] + [str(a) for a in arguments],
                               cwd=folder, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)  # else nothing tells that the process has ended
    seen = b''
    while b'images/s' not in seen[-100:]:
        try:
            seen += os.read(terminal, 100)
        except OSError:
            sys.exit('no step was seen: %s' % seen.decode(errors='replace'))
    seconds = time.time() - began
    process.send_signal(signal.SIGTERM)
    process.wait()
    os.close(terminal)
    return seconds


def links(images, folder, number):
    """Make `folder` with `number` links to the images, over and over under new names."""
    os.makedirs(folder)
    for i in range(number):
        os.symlink(images[i % len(images)], os.path.join(folder, '%06d%s' % (i, os.path.splitext(images[i % len(images)])[1])))
    return folder


def compare(options, images):
    columns = [(runtime, batch) for runtime in options.runtime for batch in options.batch]
    results = {column: [] for column in columns}
    student = []
    with tempfile.TemporaryDirectory() as top:
        data = links(images[:options.images], os.path.join(top, 'data'), min(options.images, len(images)))
        for pair in range(options.pairs):
            for runtime, batch in columns:
                with tempfile.TemporaryDirectory() as folder:
                    common_arguments = ('--data', data, '--size', options.size, '--batch', batch)
                    cold = first_step(runtime, folder, *common_arguments)
                    warm = first_step(runtime, folder, *(common_arguments + ('--restart',)))
                with tempfile.TemporaryDirectory() as folder:
                    figures = worker(runtime, folder, 'measure', data, options.size, batch)
                results[runtime, batch].append(dict(figures, first_step_cold=cold, first_step_warm=warm))
            student.append(json.loads(common.call([common.python('tf1'), common.STUDENT, '--data', data, '--size',
                                                   options.size, '--batch', 64], top).strip().split('\n')[-1]))
            print('pair %d of %d measured' % (pair + 1, options.pairs), file=sys.stderr)
    median = lambda runs, name: float(np.median([run[name] for run in runs])) if runs and name in runs[0] else None
    rows = []
    for name, title, better in FIGURES:
        reference, row = median(student, name), [title]
        for column in columns:
            value = median(results[column], name)
            row.append('%.3g' % value if value < 100 else '%.0f' % value)
            if reference and better:
                row[-1] += ' (%.1fx)' % ((value / reference) if better > 0 else (reference / value))
        rows.append(row + ['%.3g' % reference if reference else ''])
    print('%d pairs, %dx%d, %d images of which the last tenth tests; medians, in brackets how many times better '
          'than the student\'s loop\n' % (options.pairs, options.size, options.size, min(options.images, len(images))))
    print(common.table(['figure'] + ['%s, batch %d' % column for column in columns] + ['student, tf1, batch 64'],
                       rows))


def beside(options):
    """Print a training step of this program and of that in another folder, in turn."""
    rows = []
    for runtime in options.runtime:
        for batch in options.batch:
            found = {root: [] for root in (options.beside, common.ROOT)}
            for _ in range(options.pairs):
                for root in found:
                    found[root].append(worker(runtime, '.', 'step', root, batch))
            medians = [[np.median([run[name] for run in runs]) for name in ('step_ms', 'operations', 'build_seconds')]
                       for runs in found.values()]
            rows.append([runtime, batch] + ['%.3g -> %.3g (%.2fx)' % (old, new, old / new) for old, new in zip(*medians)])
    print(common.table(['runtime', 'batch', 'CPU time of a step, ms', 'operations of a step', 'CPU time to build it, s'], rows))


def restoring(options):
    """Print where the seconds of restoring a photo go: medians."""
    columns = []
    for runtime in options.runtime:
        with tempfile.TemporaryDirectory() as folder:
            runs = [worker(runtime, folder, 'cold', options.photo) for _ in range(options.pairs)]
        columns.append({part: np.median([run[part] for run in runs]) for part in runs[0]})
    rows = [[part] + ['%.2f' % column[part] for column in columns] for part in columns[0]]
    print(common.table(['seconds'] + options.runtime, rows + [['all'] + ['%.2f' % sum(each.values()) for each in columns]]))


def race(options):
    """Draw the error on held-out faces over minutes of training: the student's loop, --original, and the program."""
    from matplotlib.figure import Figure
    axes = Figure(figsize=(7, 3.5), tight_layout=True).subplots()
    for name, runtime, arguments in (('the student\'s loop, 1.14', 'tf1', None), ('--original, 1.14', 'tf1', ['--original']),
                                     ('the program, 1.14', 'tf1', []), ('the program, 2.21', 'tf2', [])):
        with tempfile.TemporaryDirectory() as folder:
            if arguments is None:
                lines = json.loads(common.call([common.python(runtime), common.STUDENT, '--data', options.data, '--epoch', 1000,
                                                '--minutes', options.minutes], folder).strip().split('\n')[-1])
                curve = list(zip(lines['seconds'], lines['test_error']))
            else:
                process = subprocess.Popen([common.python(runtime), os.path.join(common.ROOT, 'run.py'), '--data', options.data]
                                           + arguments, cwd=folder, stdout=subprocess.DEVNULL)
                log, curve = os.path.join(folder, 'results', 'loss.csv'), []
                while process.poll() is None and not (curve and curve[-1][0] > 60 * options.minutes):
                    time.sleep(1)
                    curve = [(float(row['seconds']), float(row['test_error'])) for row in common.read_table(log)] if (
                        os.path.exists(log)) else []
                process.send_signal(signal.SIGTERM)
                process.wait()
        print(name, curve, flush=True)
        axes.plot([seconds / 60 for seconds, _ in curve], [error for _, error in curve], 'o-', label=name, markersize=3)
    axes.set(xlabel='minutes of training', ylabel='error of faces that it never saw', ylim=(0, None), xlim=(0, options.minutes))
    axes.legend()
    axes.figure.savefig(os.path.join(common.ROOT, 'docs', 'minutes.png'), dpi=90)


def curves(options, images):
    """Print and draw the cost of a training step, of loading, and the memory, against size, images and files."""
    runtime, rows = options.runtime[0], []

    def milliseconds(size, number):
        """Of training, an image: an epoch of `number` images of which the last tenth tests."""
        with tempfile.TemporaryDirectory() as top:
            data = links(images, os.path.join(top, 'data'), number)
            return 1000 / worker(runtime, top, 'measure', data, size, 4)['train_images_per_second']
    step = [(size, milliseconds(size, 80 if size > 128 else 320)) for size in (64, 128, 256)]
    epoch = [(number, milliseconds(128, number)) for number in (100, 400, 1600)]
    for number in (1000, 10000, 50000):
        with tempfile.TemporaryDirectory() as top:
            data = links(images, os.path.join(top, 'data'), number)
            cold, warm = [worker(runtime, top, 'load', data, 128) for _ in range(2)]
        rows.append((number, cold['cache_seconds'], warm['cache_seconds'], warm['first_step'],
                     cold['peak_mb'], warm['peak_mb']))
    from PIL import Image
    with tempfile.TemporaryDirectory() as top:
        os.makedirs(os.path.join(top, 'large'))
        large = []
        for i, path in enumerate(images[:50]):
            large.append(os.path.join(top, 'large', '%d.jpg' % i))
            Image.open(path).resize((512, 512), Image.BICUBIC).save(large[-1], quality=90)
        data = links(large, os.path.join(top, 'data'), 2000)
        decoded = 2000 / worker(runtime, top, 'load', data, 128)['cache_seconds']
    print('Training, batch 4:\n\n' + common.table(
        ['size', 'ms an image', 'ns a pixel'],
        [(size, '%.1f' % ms, '%.0f' % (1e6 * ms / size ** 2)) for size, ms in step]))
    print('\nAn epoch at 128x128, batch 4:\n\n' + common.table(
        ['images, the last tenth tests', 'ms an image'], [(number, '%.1f' % ms) for number, ms in epoch]))
    print('\nLoading 128x128 JPEGs:\n\n' + common.table(
        ['files', 'cold cache, s', 'warm cache, s', 'start to first step, warm, s', 'peak MB, cold', 'peak MB, warm'],
        [('%d %.1f %.1f %.1f %d %d' % row).split() for row in rows]))
    print('\nCache of 2,000 512x512 JPEGs: %.0f images/s' % decoded)
    from matplotlib.figure import Figure
    figure = Figure(figsize=(12, 3.5), tight_layout=True)
    axes = figure.subplots(1, 3)
    numbers = [row[0] for row in rows]
    axes[0].plot([size ** 2 for size, _ in step], [ms for _, ms in step], 'o-')
    axes[0].set(xlabel='pixels of a picture', ylabel='ms an image', title='training step', xlim=(0, None), ylim=(0, None))
    axes[1].plot(numbers, [row[1] for row in rows], 'o-', label='cold cache')
    axes[1].plot(numbers, [row[3] for row in rows], 'o-', label='start to first step, warm')
    axes[1].set(xlabel='files', ylabel='s', title='loading', ylim=(0, None))
    axes[2].plot(numbers, [row[4] for row in rows], 'o-', label='cold')
    axes[2].plot(numbers, [row[5] for row in rows], 'o-', label='warm')
    axes[2].set(xlabel='files', ylabel='MB', title='peak memory', ylim=(0, None))
    for each in axes[1:]:
        each.legend()
    figure.savefig(os.path.join(common.ROOT, 'docs', 'cost.png'), dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--runtime', nargs='+', choices=('tf1', 'tf2'), default=['tf1'])
    parser.add_argument('--data', default=os.path.join(common.DATA, 'influencers'), help='folder of images '
                        '(default: %(default)s, else the packaged faces)')
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--batch', type=int, nargs='+', default=[64, 4])
    parser.add_argument('--images', type=int, default=200, help='at most so many of the folder')
    parser.add_argument('--pairs', type=int, default=3)
    parser.add_argument('--curves', action='store_true')
    parser.add_argument('--minutes', type=float)
    parser.add_argument('--photo', type=os.path.abspath)
    parser.add_argument('--beside', metavar='DIR', type=os.path.abspath, help='as git worktree add makes one')
    parser.add_argument('--worker', nargs='+', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, data, numbers = options.worker[0], options.worker[1], [int(text) for text in options.worker[2:]]
        print(json.dumps({'measure': measure, 'load': load, 'step': step, 'cold': cold}[kind](data, *numbers)))
        return
    if options.beside:
        return beside(options)
    if options.photo:
        return restoring(options)
    if options.minutes:
        return race(options)
    import datamanager
    root = options.data if os.path.isdir(options.data) else datamanager.packaged_faces()[0]
    images = [os.path.abspath(os.path.join(root, name)) for name in datamanager.find_files(root)
              if datamanager.named_like_image(name)]
    (curves if options.curves else compare)(options, images)


if __name__ == '__main__':
    main()

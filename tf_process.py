"""What happens in a session: the training loop, the test, and the pictures and tables they leave.

It is handed a dataset and a network. Every file but TensorBoard's events is written beside itself, synced and renamed:
no reader sees half of it, and no power loss leaves half.
"""
import csv
import errno
import glob
import itertools
import json
import os
import re
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO

import numpy as np
import tensorflow.compat.v1 as tf
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter
from tensorflow.python.client.timeline import Timeline  # has no public name
from tqdm import tqdm

LOG = ('epoch', 'iteration', 'seconds', 'images_per_second',
       'loss_rec', 'loss_adv', 'loss_dis', 'acc_real', 'acc_fake', 'test_error', 'test_psnr', 'test_ssim')
SSIM_SIDE = 11   # pixels of the filter that SSIM looks through
GRID = 40        # faces at most in a grid: of 128x128, they fill a screen
GRID_BREADTH = 5 # faces beside each other in it
GRID_SIDE = 128  # pixels of their longer side at most: a grid of larger ones costs more than the training
TEST_BATCH = 32
BAR = '{desc}, {n}/{total} [{elapsed}<{remaining}{postfix}]'  # fits into 80 columns
QUIET = 60       # seconds at least between lines on an epoch under way, where there is no terminal for a bar
KEPT = 3         # checkpoints: the newest, and two to fall back on
FULL = MemoryError, tf.errors.ResourceExhaustedError  # too little memory
LOST = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError  # another machine of a cluster


class RunError(Exception):
    """What stops the run and what to do, in one sentence."""


class Interrupted(Exception):
    """A signal, as Ctrl-C sends one: everything is saved. signal: its number."""

    def __init__(self, number):
        super().__init__('stopped and saved: give the same command again to go on')
        self.signal = number


# ---------------------------------------------------------------------------------------------------- training

def training(session, network, dataset, checkpoints, results, epochs, batch, learning_rate, profile=False):
    """Train from the newest checkpoint, if any, to the end of the last epoch.

    batch: faces a step. learning_rate: both players', at the start, see `cosine`. profile: write results/trace.json.

    Raises RunError where a loss stops being finite, nothing can be saved, or the loss log is not its own; Interrupted on
    a signal, see `ends`.
    """
    os.makedirs(os.path.join(results, 'training'), exist_ok=True)
    steps = dataset.steps(batch)
    step, before = resume(session, network, checkpoints)
    if step >= steps * epochs:
        print('trained for %d epochs already: nothing to train; a larger --epoch goes on, --restart begins anew' % (
            step // steps))
        return
    if step:
        print('going on from epoch %d, step %d' % (step // steps + 1, step % steps))
    rows, began = read_log(os.path.join(results, 'loss.csv'), step), time.time() - before
    run = traced(session, os.path.join(results, 'trace.json')) if profile else session.run
    with signals() as caught, tf.summary.FileWriter(os.path.join(results, 'tensorboard')) as writer:
        writer.add_session_log(tf.SessionLog(status=tf.SessionLog.START), step)  # drops what was written after `step`
        for epoch in range(step // steps, epochs):
            if step == steps * epoch:
                network.totals.load(np.zeros(network.totals.shape.as_list()), session)
            step, speed = train_epoch(run, network, dataset, batch, step, epochs, learning_rate, caught)
            if step == steps * (epoch + 1):
                metrics, grid = test_epoch(session, network, dataset)
                check_finite(metrics[0], epoch, step - steps * epoch)
                totals = session.run(network.totals)
                rows.append([epoch + 1, step, round(time.time() - began, 2), round(speed, 2)] + [
                    float('%.6g' % value) for value in list(totals[:-1] / totals[-1]) + list(metrics)])
                record(results, rows, grid, writer)
            save_model(session, network, checkpoints, time.time() - began)
            if caught:
                raise Interrupted(caught[0])


def train_epoch(run, network, dataset, batch, step, epochs, learning_rate, caught):
    """Train to the end of the epoch that `step` lies in, or of the step in which a signal is caught.

    run: session.run, or what traces it. Returns (the step it ended before, images a second).
    """
    steps = dataset.steps(batch)
    epoch, first = divmod(step, steps)
    title, seen = 'epoch %d/%d' % (epoch + 1, epochs), 0
    started = said = time.time()
    with tqdm(dataset.epoch(epoch, batch, first), title, steps, initial=first, miniters=1, leave=False, bar_format=BAR,
              disable=None) as bar:
        for images, mask in bar:
            losses, _ = run([network.losses, network.update], {
                network.images: images, network.mask: mask,
                network.learning_rate: cosine(learning_rate, step, steps * epochs)})
            step, seen = step + 1, seen + len(images)
            check_finite(losses, epoch, step - steps * epoch)
            speed = seen / (time.time() - started)
            state = 'rec %.1f adv %.2f dis %.2f, %.1f images/s' % (tuple(losses[:3]) + (speed,))
            bar.set_postfix_str(state, refresh=False)
            if bar.disable and time.time() - said > QUIET:
                said = time.time()
                print('%s, %d/%d, %s' % (title, step - steps * epoch, steps, state))
            if caught:
                break
    return step, speed


def record(results, rows, grid, writer):
    """Leave what an epoch leaves: the loss log, with `rows` as LOG names them, its drawing, the grid; and print it."""
    epoch, step = rows[-1][:2]
    write_csv(os.path.join(results, 'loss.csv'), LOG, rows)
    plot_log(os.path.join(results, 'loss.png'), rows)
    write_png(os.path.join(results, 'training', '%08d.png' % epoch), grid)
    summarize(writer, step, list(zip(LOG, rows[-1]))[4:], grid)
    print('epoch %(epoch)d: training error %(loss_rec).2f, test error %(test_error).2f, PSNR %(test_psnr).2f, '
          'SSIM %(test_ssim).4f, %(images_per_second).1f images/s' % dict(zip(LOG, rows[-1])))


def cosine(learning_rate, step, steps):
    """The learning rate at `step` of `steps`, falling along half a cosine (Loshchilov & Hutter 2017).

    To a third, not to zero: the weights go on moving, and their average lies where the error on new faces is lower
    (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407).
    """
    return learning_rate * (2 + np.cos(np.pi * min(step / steps, 1))) / 3


def check_finite(values, epoch, step):
    """RunError where a number is infinite or NaN."""
    if not np.isfinite(values).all():
        raise RunError('the loss is no longer finite (epoch %d, step %d): what was saved before is kept; begin anew '
                       'with --restart and a smaller --lr' % (epoch + 1, step))


def ends():
    """Numbers of the signals that end the program, which are those handled as Ctrl-C is."""
    handler = signal.getsignal(signal.SIGINT)
    return [number for number in range(1, signal.NSIG) if callable(handler) and signal.getsignal(number) == handler]


@contextmanager
def signals():
    """Yield a list that gets the number of the first signal, see `ends`; a second one ends the program at once."""
    caught, leave = [], signal.getsignal(signal.SIGINT)

    def remember(number, frame):
        caught.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)
    before = {each: signal.signal(each, remember) for each in ends()}
    try:
        yield caught
    except LOST:
        if caught:  # what was to be saved is lost, too
            leave(caught[0], None)
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def traced(session, path, calls=range(5, 8)):
    """session.run, of which the calls of these numbers are recorded in a Chrome trace (open in chrome://tracing)."""
    number, events = itertools.count(), []

    def run(fetches, feed):
        if next(number) not in calls:
            return session.run(fetches, feed)
        metadata = tf.RunMetadata()
        values = session.run(fetches, feed, tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), metadata)
        events.extend(json.loads(Timeline(metadata.step_stats).generate_chrome_trace_format())['traceEvents'])
        with replacing(path) as part, open(part, 'w') as file:
            json.dump({'traceEvents': events}, file)
        return values
    return run


# ----------------------------------------------------------------------------------------------------- testing

def evaluate(session, network, dataset):
    """Yield (row numbers, images uint8, mask, restored uint8, metrics [n,3]) over the test part, in batches."""
    for rows, mask in dataset.tests(TEST_BATCH):
        images = dataset.images(rows)
        restored = session.run(network.restored, {network.images: images, network.mask: mask})
        yield rows, images, mask, to_bytes(restored), measure(images, restored, mask)


def measure(images, restored, mask):
    """[N,3]: squared error summed over the hole, PSNR over the hole in dB, SSIM of the picture.

    images: [N,H,W,C] uint8; restored: the same in [0, 1], equal outside the hole of mask, [H,W,1].
    SSIM: Wang et al. 2004, Gaussian window of 11 pixels and deviation 1.5.
    """
    whole, (rows, columns) = mask.shape[:2], np.nonzero(mask[:, :, 0])
    # All else has no error and a similarity of 1, and costs much to look at.
    near = tuple(slice(max(x.min() - SSIM_SIDE + 1, 0), x.max() + SSIM_SIDE) for x in (rows, columns))
    true, restored = images[(slice(None),) + near] / np.float32(255), restored[(slice(None),) + near]
    error = ((true - restored) ** 2).sum((1, 2, 3))
    psnr = -10 * np.log10(error / (mask.sum() * images.shape[3]))
    inner, radius = slice(SSIM_SIDE // 2, -(SSIM_SIDE // 2)), SSIM_SIDE // 2
    mean = lambda x: gaussian_filter(x, (0, 1.5, 1.5, 0), truncate=3.5)[:, inner, inner]
    x, y = mean(true), mean(restored)
    product, squares = mean(true * restored), mean(true ** 2 + restored ** 2)
    similarity = (2 * x * y + 1e-4) * (2 * (product - x * y) + 9e-4) / (
        (x ** 2 + y ** 2 + 1e-4) * (squares - x ** 2 - y ** 2 + 9e-4))
    share = x.shape[1] * x.shape[2] / np.prod([side - 2. * radius for side in whole])
    return np.stack([error, psnr, 1 + share * (similarity.mean((1, 2, 3)) - 1)], 1)


def test_epoch(session, network, dataset):
    """(mean metrics, grid [H,W,C] uint8 of the first faces) of the test part."""
    metrics, tiles = [], {}
    for rows, images, mask, restored, values in evaluate(session, network, dataset):
        metrics += list(values)
        tiles.update(first_faces(dataset, rows, panels(images, mask, restored)))
    return np.mean(metrics, 0), sheet([tiles[row] for row in sorted(tiles)])


def first_faces(dataset, rows, faces):
    """{row: face} of those among the first GRID of a test, which come in groups of one mask; of GRID_SIDE at most."""
    shown, scale = set(dataset.test[:GRID]), GRID_SIDE / max(dataset.shape[:2])
    return {row: face if scale >= 1 else resized(face, scale) for row, face in zip(rows, faces) if row in shown}


def resized(image, scale):
    """An [H,W,C] uint8 array at that share of its height and width."""
    image = picture(image)
    image = image.resize([max(int(round(side * scale)), 1) for side in image.size], Image.BICUBIC)
    return np.asarray(image).reshape(image.height, image.width, -1)


def test(session, network, dataset, results):
    """Test the session's model: a PNG a face, a grid, results/test.csv; prints and returns the means, see `measure`."""
    table, tiles, writing = {}, {}, []  # {row: values}, {row: panels}
    with replacing(os.path.join(results, 'test')) as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        os.makedirs(folder)
        for rows, images, mask, restored, metrics in tqdm(evaluate(session, network, dataset), 'testing',
                                                          len(dataset.tests(TEST_BATCH)), leave=False,
                                                          disable=None):
            list(writing)  # waits for the batch before, written while this one was computed
            faces = panels(images, mask, restored, difference=False)
            names = [dataset.names[row] for row in rows]
            table.update((row, [name] + ['%.6g' % value for value in values])
                         for row, name, values in zip(rows, names, metrics))
            first = first_faces(dataset, rows, faces)
            tiles.update(first)
            if first and len(tiles) == min(GRID, len(dataset.test)):  # full; begun early: it keeps one core busy for long
                grid = pool.submit(write_png, os.path.join(results, 'test_grid.png'),
                                   sheet([tiles[row] for row in sorted(tiles)]))
            writing = pool.map(save_png, [os.path.join(folder, name + '.png') for name in names], faces)
        list(writing)
        grid.result()
    table = [table[row] for row in dataset.test]
    write_csv(os.path.join(results, 'test.csv'), ('image', 'error', 'psnr', 'ssim'), table)
    means = np.mean([[float(value) for value in row[1:]] for row in table], 0)
    print('test of %d faces: error %.2f, PSNR %.2f dB in the hole, SSIM %.4f' % ((len(table),) + tuple(means)))
    return means


# ------------------------------------------------------------------------------------------------- checkpoints

def models(checkpoints):
    """Paths of the saved models, without extension, oldest first."""
    found = glob.glob(os.path.join(glob.escape(checkpoints), 'model-*.index'))
    return sorted((path[:-len('.index')] for path in found if re.match(r'.*model-\d+\.index$', path)),
                  key=lambda path: int(path.rsplit('-', 1)[1]))


def remove_unfinished(checkpoints):
    """Remove what a killed or failed run was saving."""
    for pattern in ('*.tempstate*', 'model-[0-9]*_temp*'):
        for path in glob.glob(os.path.join(glob.escape(checkpoints), pattern)):
            remove(path)


def saver():
    """What saves and loads the default graph's variables; made once, since it adds operations for each of them."""
    return tf.train.Scaffold.get_or_default('saver', tf.GraphKeys.SAVERS, lambda: tf.train.Saver(max_to_keep=KEPT))


def newest_whole(folder, paths, use):
    """use(path) for the last of the `paths` of models in `folder` that is whole: a damaged one is named and passed over.

    Raises RunError where none is whole.
    """
    for path in reversed(paths):
        try:
            return use(path)
        except LOST:
            raise
        except (tf.errors.OpError, ValueError, IndexError, RuntimeError):  # TensorFlow 2 lets some of C++ through
            print('%s is damaged or of another model: trying the one before' % path)
    raise RunError('%s: no whole model is left there: begin anew with --restart, or name another --checkpoints' % folder)


def resume(session, network, checkpoints):
    """Load the newest whole model, if any, into the session: (steps, seconds) that it was trained for."""
    remove_unfinished(checkpoints)
    saved = models(checkpoints)
    if saved or os.path.exists(os.path.join(checkpoints, 'checkpoint')):
        newest_whole(checkpoints, saved, lambda path: saver().restore(session, path))
    saver().recover_last_checkpoints(saved)
    return session.run([network.step, network.seconds])


def save_model(session, network, checkpoints, seconds):
    """Save the session's weights and state as model-STEP; it is on the disk when this returns.

    Meanwhile the two saved before are there: `newest_whole` falls back to them where a power loss damages this one.
    """
    network.seconds.load(seconds, session)
    try:
        path = saver().save(session, os.path.join(checkpoints, 'model'), session.run(network.step),
                            write_meta_graph=False)
        sync(*(glob.glob(glob.escape(path) + '.*') + [os.path.join(checkpoints, 'checkpoint'), checkpoints]))
    except LOST:
        raise
    except (tf.errors.OpError, OSError) as error:
        remove_unfinished(checkpoints)
        raise unwritten(checkpoints, error, 'the model cannot be saved')


def session_config(*devices):
    """For sessions and servers: take a GPU's memory as it is needed; talk to no other devices than these, if any."""
    return tf.ConfigProto(gpu_options=tf.GPUOptions(allow_growth=True), device_filters=devices)


def open_session(target=''):
    """A session with fresh weights for the default graph, here or at a server."""
    session = tf.Session(target, config=session_config())
    session.run(tf.global_variables_initializer())
    return session


# ---------------------------------------------------------------------------------------------------- pictures

def to_bytes(images):
    """float images in [0, 1] to uint8."""
    return (np.clip(images, 0, 1) * 255 + .5).astype(np.uint8)


def masked(images, mask):
    """uint8 images, [N,H,W,C], with the hole of mask, [H,W,1], in grey."""
    return np.where(mask > 0, np.uint8(128), images)


def panels(images, mask, restored, difference=True):
    """[N,H,W*k,C] uint8: input, masked, restored, and the difference (grey where none), side by side."""
    parts = [images, masked(images, mask), restored]
    if difference:
        parts.append((128 + (restored.astype(np.int16) - images) // 2).astype(np.uint8))
    return np.concatenate(parts, 2)


def sheet(tiles):
    """One picture, [H,W,C], of tiles, a list of [h,w,C], GRID_BREADTH beside each other, a white line between."""
    tiles = np.pad(np.array(tiles), [(0, 0), (0, 2), (0, 2), (0, 0)], 'constant', constant_values=255)
    lines = [tiles[i:i + GRID_BREADTH] for i in range(0, len(tiles), GRID_BREADTH)]
    breadth = min(len(tiles), GRID_BREADTH)
    lines = [np.concatenate(list(line) + [np.full_like(line[0], 255)] * (breadth - len(line)), 1) for line in lines]
    return np.concatenate(lines, 0)


def plot_log(path, rows):
    """Draw the loss log: error over epochs, and the balance of the two players."""
    table = np.array(rows, float)
    column = lambda name: table[:, LOG.index(name)]
    figure = Figure(figsize=(10, 4), tight_layout=True)
    error, balance = figure.subplots(1, 2)
    error.plot(column('epoch'), column('loss_rec'), label='training')
    error.plot(column('epoch'), column('test_error'), label='test')
    error.set(xlabel='epoch', ylabel='squared error in the hole, per face', ylim=(0, None), title='error')
    for name in ('acc_real', 'acc_fake'):
        balance.plot(column('epoch'), column(name), label=name)
    balance.plot(column('epoch'), column('loss_dis'), '--', label='loss_dis')
    balance.axhline(.5, color='grey', linewidth=.5)
    balance.set(xlabel='epoch', ylim=(0, 2), title='discriminator: accuracy and loss')
    for axes in (error, balance):
        axes.legend()
    with replacing(path) as part:
        figure.savefig(part, format='png', dpi=100)


def summarize(writer, step, scalars, image):
    """Write named scalars and one [H,W,C] uint8 picture to TensorBoard."""
    file = BytesIO()
    picture(image).save(file, 'PNG')
    values = [tf.Summary.Value(tag=name, simple_value=float(value)) for name, value in scalars]
    values.append(tf.Summary.Value(tag='restorations', image=tf.Summary.Image(
        height=image.shape[0], width=image.shape[1], colorspace=image.shape[2], encoded_image_string=file.getvalue())))
    writer.add_summary(tf.Summary(value=values), step)
    writer.flush()


# ------------------------------------------------------------------------------------------------------ files

def unwritten(path, error, what='cannot be written'):
    """A RunError: why `path` cannot be written, by an error of the system or TensorFlow, and what to do."""
    lines = (getattr(error, 'strerror', None) or getattr(error, 'message', None) or str(error)).split('\n')
    reason = next((line for line in lines if path in line), lines[0])  # TensorFlow 2 says where in the graph first
    full = any(os.strerror(number) in reason for number in (errno.ENOSPC, errno.EDQUOT))
    return RunError('%s: %s (%s): %s' % (path, what, reason.strip(), 'free space, then give the same command again' if full
                                         else 'put that right and give the same command again, or name another folder'))


def remove(path):
    """Remove a file, or a folder with what is in it, where there is one."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def sync(*paths):
    """Return when each file is on the disk with its content, each folder with its list of names."""
    for path in paths:
        folder = os.path.isdir(path)
        try:
            opened = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        except OSError:  # Windows opens no folders, and some file systems sync none
            if not folder:
                raise


@contextmanager
def replacing(path):
    """Yield a name beside `path` to write a file, or a folder of synced files, to: renamed to `path` when it is whole
    and on the disk, removed when not.

    RunError where it cannot be written. That what was there cannot be removed is a remark: NFS keeps what is open.
    """
    path = os.path.normpath(path)  # with a slash at its end the part would lie in it
    part, old = path + '.part', path + '.part.old'
    try:
        remove(part)  # of a killed run
        yield part
        sync(part)
        if os.path.isdir(path):  # nothing can be renamed to that
            os.makedirs(old, exist_ok=True)  # the name is ours, as PATH.part is: PATH.old may be the user's
            os.replace(path, os.path.join(tempfile.mkdtemp(dir=old), 'replaced'))
        os.replace(part, path)
        sync(os.path.dirname(path) or '.')
    except BaseException as error:
        with suppress(OSError):
            remove(part)
        if isinstance(error, OSError):
            raise unwritten(path, error)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if os.path.isdir(old):
        print('%s: was replaced, but another program has it open: the next run removes it' % old)


def picture(image):
    """A Pillow image of an [H,W,C] uint8 array, C 1 to 4, or uint16 one, C 1."""
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))  # else it is slow


def save_png(path, image, **options):
    """Write an array, see `picture`, as a PNG into a new folder, synced; options as Pillow's PNG writer takes them."""
    picture(image).save(path, 'PNG', compress_level=1, **options)
    sync(path)


def write_png(path, image, **options):
    """The same, beside itself and renamed."""
    with replacing(path) as part:
        save_png(part, image, **options)


def write_csv(path, header, rows):
    """Write a table: the header's names and the rows' values."""
    with replacing(path) as part, open(part, 'w', newline='', encoding='utf-8', errors='surrogateescape') as file:
        csv.writer(file).writerows([header] + list(rows))


def read_log(path, iteration):
    """The rows of a loss log, lists of strings, up to and with that iteration; [] where there is none.

    RunError where another program has changed it, or where it is another training's.
    """
    if not os.path.exists(path):
        return []
    try:
        with open(path, newline='') as file:
            rows = list(csv.reader(file))[1:]
        np.array(rows, float).reshape(-1, len(LOG))  # or ValueError: no numbers, or not as many in each row
        if not iteration and len(rows) > 1:  # one row: of a run that was killed before its model was saved
            raise RunError('%s: of another training: name another --results, or give --restart' % path)
        return [row for row in rows if int(row[LOG.index('iteration')]) <= iteration]
    except ValueError:
        raise RunError('%s: not as it was written, so no row can be added: move it away, and give the same command '
                       'again' % path)

"""Train a context encoder to complete faces, test it, and leave pictures and numbers to look at.

    python run.py                     train on the packaged faces, then test
    python run.py --data DIR          the same on the images below DIR
    python run.py --test_only         test a trained model
    python run.py --restore PHOTO     repaint the faces in photos, or a hole, with a trained model
    python run.py --unmask PHOTO      repaint the face masks in photos
    python run.py --export DIR        write a trained model as a TensorFlow SavedModel
"""
import argparse
import contextlib
import math
import os
import sys
import warnings

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')           # TensorFlow's own chatter, before it is imported
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')           # the seam's small systems: threads wait for busy cores there
os.environ.pop('MPLBACKEND', None)                           # a notebook's, whose packages may be missing here; none is used
warnings.filterwarnings('ignore', category=FutureWarning)    # TensorFlow 1.14 on any numpy above 1.16
warnings.filterwarnings('ignore', category=DeprecationWarning)

import numpy as np

from datamanager import SIZE, DataError, Dataset, inside, say_skipped, shown
from extras.console import console
from extras.masks import MASKS, Masks, share

# A training from random weights, and one that begins from a model, which few faces would soon spoil: epochs and rate.
ANEW, BEGUN = {'epoch': 20, 'lr': 1e-3}, {'epoch': 5, 'lr': 1e-4}
# What --original sets where the command line does not: the student's training. No model of ours is a beginning for it.
ORIGINAL = {'batch': 64, 'lr': 1e-4, 'mask': 'random', 'vary': 0., 'precision': 'float32', 'init': 'none'}


def number(kind, low, high):
    """An argparse type: a finite `kind` (int or float) from low to high."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError('%r is not %s from %g to %g' % (
                text, 'a whole number' if kind is int else 'a number', low, high))
        return value
    return parse


def size(text):
    """An argparse type: '128' or '112x92' (height x width) to (height, width)."""
    sides = text.lower().split('x')
    if len(sides) > 2 or not all(side.isdigit() and 32 <= int(side) <= 1024 for side in sides):
        raise argparse.ArgumentTypeError('%r is not a size such as 128 or 112x92, sides from 32 to 1024' % text)
    return int(sides[0]), int(sides[-1])


def parse(arguments=None):
    """The command line as a namespace; argparse ends the program with status 2 where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda sentence: parser.exit(2, 'error: %s: see --help\n' % sentence)
    add, default = parser.add_argument, ' (default: %(default)s)'
    add('--data', metavar='DIR', help='folder of face images, searched recursively; DIR/train and DIR/test are the '
        'split where both exist, else the last tenth by path tests; lfw: Labeled Faces in the Wild, downloaded once '
        '(default: the packaged ORL faces)')
    add('--size', type=size, metavar='N|HxW', help='pixels of the pictures (default: those of the model that it goes on '
        'with or begins from, else %d; only at %d are the packaged faces aligned)' % (SIZE[0], SIZE[0]))
    add('--mask', metavar='KIND', help='what is hidden: center, lower (as a face mask does), random (a rectangle), '
        'free (brush strokes), an image (white = hole), a folder of them, or several, as in center,lower,free: each '
        'batch draws one (default: center; with --test_only what the model was trained with)')
    add('--epoch', type=number(int, 1, 10 ** 6), help='passes over the training faces (default: %d; %d where it begins '
        'from a model)' % (ANEW['epoch'], BEGUN['epoch']))
    add('--batch', type=number(int, 1, 4096), default=4, help='faces a step; small steps learn more in an epoch' + default)
    add('--lr', type=number(float, 1e-8, 1), help='learning rate at the start, falls to a third (default: %g; %g where it '
        'begins from a model)' % (ANEW['lr'], BEGUN['lr']))
    add('--adv_weight', type=number(float, 0, 1e4), default=1., help='weight of the adversarial loss beside the '
        'reconstruction loss, where 1 is the tuned one, which grows with the hole; 0: no adversary, less error, blurred '
        'faces' + default)
    add('--vary', type=number(float, 0, 1), default=.6, help='how much training faces are turned, scaled, moved '
        'and lit differently each time, 0 to 1: more for few faces and many epochs' + default)
    add('--precision', choices=('auto', 'float32', 'bfloat16'), default='auto', help='what the convolutions of a training '
        'compute in; auto: bfloat16 on TensorFlow 2 where the processor has it, else float32' + default)
    add('--seed', type=number(int, 0, 2 ** 31 - 1), help='of weights, order and random masks '
        '(default: 0; with --test_only what the model was trained with)')
    add('--original', action='store_true', help='train the student project that this program began as, to compare with: its '
        'network, loss, batch, rate and holes, where other options do not say otherwise')
    add('--init', metavar='DIR', help='begin from the weights of the model in DIR, '
        'checkpoints or an exported model; none: from random ones (default: none; with the packaged faces, at its '
        'size, the included model)')
    add('--restart', action='store_true', help='forget the model in --checkpoints and begin anew')
    add('--test_only', action='store_true', help='test the trained model, do not train')
    add('--profile', action='store_true', help='record the sixth to eighth step in RESULTS/trace.json, for chrome://tracing')
    add('--align', action='store_true', help='find the face in each image of --data and align it by its eyes, instead '
        'of cropping the middle; images without are skipped')
    add('--restore', nargs='+', metavar='PHOTO', help='restore the faces in photos, and folders of them, with the '
        'trained model; --mask is then center, lower, a PNG (white = repaint) or a folder of PNGs with the photos\' '
        'names (default: what it was trained with, if that is center, lower or a PNG, else center)')
    add('--unmask', nargs='+', metavar='PHOTO', help='the same, and what is repainted is the face mask that is found')
    add('--export', metavar='DIR', help='write the trained model to DIR as a TensorFlow SavedModel')
    add('--checkpoints', metavar='DIR', default='checkpoints', help='folder of the model and its config.json' + default)
    add('--results', metavar='DIR', default='results', help='folder of pictures, tables and TensorBoard logs' + default)
    add('--cache', metavar='DIR', default='cache', help='folder of decoded images, safe to delete' + default)
    options = parser.parse_args(arguments)
    if options.original:
        parser.set_defaults(**ORIGINAL)
        options = parser.parse_args(arguments)
    tasks = 'restore', 'unmask', 'export', 'restart', 'test_only'
    if sum(bool(getattr(options, task)) for task in tasks) > 1:
        parser.error('give only one of ' + ', '.join('--' + task for task in tasks))
    for name, value in vars(options).items():
        if '' in (value if isinstance(value, list) else [value]):  # of a shell variable that is not set
            parser.error('argument --%s: a name is missing' % name)
    if options.unmask and options.mask:
        parser.error('--unmask finds the mask itself: leave out --mask, or give --restore')
    options.using = bool(options.restore or options.unmask or options.export or options.test_only)  # what was trained
    for name in ('original', 'init'):
        if getattr(options, name) and options.using:
            parser.error('--%s begins a training: to use a model, name its folder with --checkpoints' % name)
    return options


def announce(options, mask, dataset, network, batch, precision):
    """Say what is about to happen."""
    import tensorflow.compat.v1 as tf
    from tf_process import session_config
    with tf.Session(config=session_config()) as session:
        devices = [device.name.split('device:')[-1] for device in session.list_devices() if 'XLA' not in device.name]
    print('faces: %d to train on, %d to test on, %dx%dx%d' % ((len(dataset.train), len(dataset.test)) + dataset.shape))
    print('mask: %s, %s' % (mask, share(np.mean([mask.mean() for _, mask in dataset.tests(1)]))))
    print('weights: generator {:,}, discriminator {:,}'.format(*network.parameters))
    print('steps an epoch: %d of %d faces; epochs: %d; devices: %s; convolutions in %s' % (
        dataset.steps(batch), batch, options.epoch, ', '.join(devices), precision))


@contextlib.contextmanager
def quiet():
    """Discard what is written to standard error, by C++ too: TensorFlow 2 logs before it can be told not to."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def main(options):
    """Train and test, or use what was trained, as the options say.

    Raises DataError, RunError, Interrupted or OSError, with a sentence for the user.
    """
    with quiet():  # here, not above, so that --help and a wrong argument answer at once
        import tensorflow.compat.v1 as tf
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    import neuralnet
    import tf_process
    from extras import machines, models

    cluster = machines.Cluster(None if options.using else os.environ.get('TF_CONFIG'))
    if not cluster.chief:
        cluster.serve()
    named = list(filter(None, (options.checkpoints, options.init, options.export)))
    for name in named + [options.results]:
        if not models.is_utf8(name):
            raise DataError('%s: TensorFlow wants names in UTF-8: name another folder' % shown(name))
    for name in named:
        if not models.is_plain(name):
            raise DataError('%s: TensorFlow takes [, *, ? and \\ in names for patterns, and would not find the model: '
                            'name another folder' % shown(name))
    if options.using:
        options.checkpoints = models.locate(options.checkpoints)
    try:
        for folder in [options.checkpoints] * (not options.using) + [options.results] * (not options.export):
            models.writable(folder)
        with tf.Graph().as_default(), tf.device(cluster.placement):  # a notebook may run this twice
            if options.using:
                use(options, neuralnet, tf_process, models)
            else:
                options.seed = options.seed or 0
                tf.set_random_seed(options.seed)
                train(options, neuralnet, tf_process, models, cluster)
    finally:
        cluster.release()


def train(options, neuralnet, tf_process, models, cluster):
    """Train, then test."""
    from extras import machines
    devices = cluster.devices if cluster.devices != [None] else machines.gpus() or [None]
    batch = options.batch * len(devices)
    if models.exported(options.checkpoints):
        raise tf_process.RunError('%s: an exported model cannot be trained on: give it to --init, and name another '
                                  '--checkpoints' % options.checkpoints)
    models.check_owner(options.checkpoints)
    # What is wrong there is said before thousands of images are read.
    kept = None if options.restart else models.settings(options.checkpoints)
    init, source = models.beginning(options.init, kept, options.size, packaged=not options.data)
    size = options.size or (source and tuple(source['size'])) or SIZE
    for name, value in (ANEW if init == 'none' else BEGUN).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if not kept and init != 'none':
        print('begins from the model in %s; with --init none from random weights' % init)
    align, mask = options.align or aligned(options.data, size), options.mask or 'center'
    dataset = faces(options, size, mask, align)
    with models.locked(options.checkpoints, options.results):
        settings = {
            'size': list(dataset.shape[:2]), 'channels': dataset.shape[2], 'mask': mask, 'batch': batch,
            'lr': options.lr, 'adv_weight': options.adv_weight, 'vary': options.vary, 'seed': options.seed,
            'init': init, 'align': align, 'original': options.original, 'training faces': len(dataset.train),
            'faces': dataset.fingerprint, 'masks': dataset.masks.fingerprint}
        if not options.restart:
            models.check_config(options.checkpoints, settings, fresh=False)
        precision = machines.precision(options.precision, cluster)
        network = kind(neuralnet, options.original)(dataset.shape, options.adv_weight, devices, precision)
        announce(options, mask, dataset, network, batch, precision.name)

        def work(session):
            if init != 'none' and (options.restart or not tf_process.models(options.checkpoints)):
                models.load(session, network, init)
            if options.restart:  # now that nothing can be wrong
                models.clear(options.checkpoints, options.results)
            models.check_config(options.checkpoints, settings, fresh=True)
            if options.restart and init != 'none':  # what was cleared may be what this begins from
                tf_process.save_model(session, network, options.checkpoints, 0)
            options.restart = False  # once, though a lost machine repeats this
            tf_process.training(session, network, dataset, options.checkpoints, options.results,
                                options.epoch, batch, options.lr, options.profile)
            tf_process.test(session, network, dataset, options.results)
        cluster.run(work)
    print('pictures: %s, %s; numbers: %s, %s' % tuple(os.path.join(options.results, name) for name in (
        'test_grid.png', 'training/', 'loss.csv', 'test.csv')))


def kind(neuralnet, original):
    """The class of the network: ContextEncoder, or what stands in for it with --original."""
    if original:
        from extras.original import Original
        return Original
    return neuralnet.ContextEncoder


def aligned(data, size):
    """Whether the faces of --data are found and aligned by their eyes without --align: the packaged ones of SIZE.

    36 people in varying poses are too few to learn where eyes lie: without alignment dots were painted for them.
    At another size they stay as they are, which is sooner done.
    """
    return not data and size == SIZE


def faces(options, size, mask, align, training=True):
    """The Dataset of --data; what it left out is named. align: whether faces are to be found and aligned by their eyes."""
    folder, people, crop = options.data, False, None
    masks = Masks(mask, *size, seed=options.seed)  # what is wrong with it is said before thousands of images are read
    keep_apart(options, masks.paths)
    if folder == 'lfw' and not os.path.isdir(folder):
        from extras import lfw
        folder, people, crop = lfw.fetch(), True, lfw.middle
    if align:
        from extras import faces as finding
        finding.detector()  # said before thousands of images are read, if it is missing
        crop = finding.align
    dataset = Dataset(folder, size, masks, options.seed, options.cache, training, options.vary, people, crop)
    say_skipped(dataset.skipped)
    if dataset.division:
        print(dataset.division)
    return dataset


def keep_apart(options, masks=()):
    """DataError where masks or what the program writes would be taken for faces of --data, or replace something else."""
    for mask in masks if options.data else []:
        if inside(mask, options.data):
            raise DataError('%s: lies in --data, and would be taken for faces: move it elsewhere' % shown(mask))
    within = [name for name in ('results', 'checkpoints', 'cache') if options.data and inside(
        getattr(options, name), options.data)]
    if within:
        raise DataError('%s: lies in --data, and its files would be taken for faces: name another --%s' % (
            shown(getattr(options, within[0])), ' and --'.join(within)))
    test, *others = [os.path.join(options.results, part) for part in ('test', 'training', 'tensorboard')]
    foreign = os.path.isdir(test) and os.listdir(test) and not os.path.exists(test + '_grid.png')
    if foreign or options.data and any(inside(options.data, folder) for folder in [test] + others):
        raise DataError('%s: holds other pictures, which the results would replace: name another --results' % (
            shown(options.results)))


def use(options, neuralnet, tf_process, models):
    """Test the trained model, restore photos with it, or export it."""
    folder, kept = models.trained(options.checkpoints, models.FINE if options.restore or options.unmask else models.SHIPPED)
    trained = kept['mask'] if kept['mask'] in MASKS or os.path.isfile(kept['mask']) or not options.restore else 'center'
    mask = options.mask or trained
    shape = tuple(kept['size']) + (kept['channels'],)
    where = models.locate(folder)
    held = [where] if os.access(where, os.W_OK) and not models.exported(where) else []  # else nobody trains it on
    with models.locked(*held, *[options.results] if options.test_only else []):
        model = {'size': list(options.size or shape[:2])}
        if options.restore or options.unmask:
            from extras import photos
            source = photos.Photos(options.restore or options.unmask, finder() if options.unmask else mask, shape,
                                   options.results)
            what, work = 'photos', photos.restore
        elif not options.export:
            size = options.size or shape[:2]
            align = options.align or aligned(options.data, size) or kept.get('align', False)
            options.seed = kept.get('seed', 0) if options.seed is None else options.seed
            source = faces(options, size, mask, align, training=False)
            shape, what, work = source.shape, 'faces', tf_process.test
            model['channels'] = max(shape[2], kept['channels'])  # a model of colour faces can paint grey ones, too
        models.check_config(where, model, fresh=False)
        network = kind(neuralnet, kept['original'])(shape, devices=())
        with tf_process.open_session() as session:
            models.load(session, network, folder)
            if options.export:
                models.export(session, network, options.export, kept)
                print('exported: %s' % options.export)
                return
            hidden, like = ('face masks', 'lower') if options.unmask else (mask, mask)
            if not set(like.split(',')) <= set(kept['mask'].split(',')):
                print('the model was trained with mask %s, these %s are hidden by %s' % (kept['mask'], what, hidden))
            work(session, network, source, options.results)


def finder():
    """What finds the face mask in an aligned face, for Photos."""
    from extras import faces as finding
    finding.detector()  # says so where OpenCV is missing
    from extras import facemasks
    return facemasks.find_mask


@console()
def front_door(arguments=None):
    """Exit status of the program: 0, 2 after a sentence on what is wrong, 128 + N after signal N: 130 after Ctrl-C,
    143 after SIGTERM, 129 after SIGHUP, 141 where nobody reads standard output any more."""
    options = parse(arguments)
    anew = options.restart

    def say(sentence):
        if anew and not options.restart:  # what was to be forgotten is, and the same command would forget this, too
            sentence = sentence.replace('the same command', 'the same command without --restart')
        print(sentence, file=sys.stderr)
    try:
        main(options)
    except KeyboardInterrupt as end:
        say('\nstopped: give the same command again to go on')
        return 128 + end.args[0]
    except DataError as error:
        say('error: %s' % error)
        return 2
    except OSError as error:
        say('error: %s: %s' % (shown(error.filename or ''), error.strerror or error))
        return 2
    except Exception as error:
        import tf_process
        if isinstance(error, tf_process.Interrupted):
            say('\n%s' % error)
            return 128 + error.signal
        if isinstance(error, tf_process.FULL):
            error = 'too little memory: give a smaller --batch or --size'
        elif not isinstance(error, tf_process.RunError):
            raise
        say('error: %s' % error)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(front_door())
